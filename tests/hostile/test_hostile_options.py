"""Command lines and DeepSpeed configurations: one line that says what is wrong, or what was given."""

import json
import math
import sys
from dataclasses import dataclass, fields
from typing import get_type_hints
from unittest import mock

import pytest
from hypothesis import strategies as st

from data_utils.errors import UserError, run_as_script
from distillm.arguments import Arguments, TrainingArguments
from distillm.method import Method
from distillm.option_parser import options_of, parse_arguments
from distillm.options import flag
from distillm.training.deepspeed_engine import load_config
from distillm.training.option_use import check_option_use, check_save_folder
from evaluate import Arguments as EvaluationArguments
from tests.hostile.cases import cases, refusal

# ---- command lines -----------------------------------------------------------------------------------------------

NUMBERS = ["0", "-1", "1", "7", "0.5", "1.0", "1.5", "-0.1", "1e-4", "nan", "inf", "-inf", "1e400", "9" * 30, "0x10"]
VALUES = [*NUMBERS, "", " ", "true", "False", "lora", "gpt2", "constant", "step", "none", "kd", "lm", "srkl-contra"]
VALUES += ["adaptive-srkl", "a folder/with spaces", "日本/👩‍👩‍👧", "-x", "--", "a\nb", "%s", "@file", "=", "x" * 2000]
KNOWN = {entry.name: entry for kind in get_type_hints(Arguments).values() for entry in fields(kind)}
REQUIRED = ["--model-path", "m", "--data-dir", "d", "--save", "s"]
NAMES = st.sampled_from(sorted(KNOWN))
UNKNOWN = st.sampled_from(["--mode1-path", "--learning-rate", "--model", "--lr-", "--LR", "---lr", "-l", "stray"])
PAIRS = st.tuples(NAMES.map(flag) | UNKNOWN, st.sampled_from(VALUES) | st.text(max_size=6))


def parse(kind, words):
    with mock.patch.object(sys, "argv", ["script.py", *words]):
        return parse_arguments(kind, "")


def means(kind, value, text: str) -> bool:
    """Say whether a parsed value is what the text says."""
    if isinstance(value, bool):
        return value == (text.lower() in ("true", "1", "yes", "t", "y"))
    if isinstance(value, int):
        return value == int(text)
    if isinstance(value, float):
        return value == float(text) and math.isfinite(value)
    return value == text or value == [text]


@cases(500, pairs=st.lists(PAIRS, max_size=3))
def test_a_command_line_is_refused_or_every_value_is_the_given_one(pairs):
    given = dict(pairs)  # of an option given twice, the last counts
    try:
        every, names = parse(Arguments, [*REQUIRED, *(word for pair in pairs for word in pair)])
    except UserError as error:
        assert str(error).strip()
        return
    options = options_of(every)
    assert all(name in KNOWN for name in names)
    for option, text in given.items():
        name = option[2:].replace("-", "_")
        assert name in names
        assert means(KNOWN[name].type, options[name], text), (option, text, options[name])
    for name, entry in KNOWN.items():
        if name not in names and isinstance(entry.default, str | int | float):
            assert options[name] == entry.default


@cases(500, words=st.lists(st.sampled_from([*map(flag, sorted(KNOWN)), *VALUES]), max_size=6))
def test_any_order_of_words_ends_in_options_or_one_error(words):
    try:
        every, _ = parse(Arguments, words)
    except UserError:
        return
    assert options_of(every)["model_path"]


@cases(
    500,
    method=st.sampled_from(["lm", "kd", "srkl-contra", "adaptive-srkl", "mixed-jsd-fdd", "distillm2-v2-contra"]),
    changes=st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("do_train", "do_valid"), st.booleans()),
            **dict.fromkeys(
                ("teacher_model_path", "velocity_field_path", "gt_data_dir"), st.sampled_from([None, "t", "s"])
            ),
            "kd_ratio": st.sampled_from([1.0, 0.5]),
        },
    ),
    given=st.sets(NAMES, max_size=4),
)
def test_options_that_a_method_lacks_are_refused_and_the_others_named(method, changes, given, capsys):
    arguments, _ = parse(Arguments, [*REQUIRED, "--type", method])
    for group in vars(arguments).values():
        vars(group).update({name: value for name, value in changes.items() if name in vars(group)})
    options = options_of(arguments)
    capsys.readouterr()
    parsed = Method.parse(method)
    refused = refusal(check_option_use, parsed, arguments, given) or refusal(check_save_folder, options)
    warned = capsys.readouterr().err
    assert warned.count("\n") <= 1
    if refused is None:
        assert options["do_train"] or options["do_valid"]
        assert parsed == Method() or options["teacher_model_path"] is not None
        assert not parsed.contra or options["velocity_field_path"] is not None
    else:
        assert "--" in refused


@cases(
    300,
    pairs=st.lists(
        st.tuples(
            st.sampled_from(["seeds", "data-names", "num-rows", "max-length", "top-p"]),
            st.lists(st.sampled_from([*NUMBERS, "dolly", "alpaca"]), max_size=3),
        ),
        max_size=3,
    ),
)
def test_options_of_evaluation_are_refused_or_taken(pairs):
    words = [word for name, values in pairs for word in (f"--{name}", *values)]
    try:
        parsed, _ = parse(EvaluationArguments, ["--model-path", "m", "--save", "s", *words])
    except UserError:
        return
    given, arguments = dict(pairs), parsed.evaluation
    assert arguments.seeds and min(arguments.seeds) >= 0 and arguments.data_names
    assert "seeds" not in given or arguments.seeds == [int(value) for value in given["seeds"]]
    assert "data-names" not in given or arguments.data_names == given["data-names"]


# ---- DeepSpeed's configuration -----------------------------------------------------------------------------------

BLOCKS = st.sampled_from([None, True, 2, "auto", [], {}, {"stage": 2}, {"stage": 9}, {"enabled": True}, {"enabled": 1}])
CONFIGS = st.dictionaries(
    st.sampled_from(
        ["zero_optimization", "bf16", "fp16", "gradient_clipping", "optimizer", "gradient_accumulation_steps"]
    ),
    BLOCKS,
    max_size=4,
)


def with_config(path):
    batch = {"batch_size": 4, "gradient_accumulation_steps": 2}
    return TrainingArguments(save="s", deepspeed=True, deepspeed_config=str(path), **batch)


@cases(
    300, text=CONFIGS.map(json.dumps) | st.sampled_from(["", "{", "[]", "3", "null", '"x"', "{}"]) | st.text(max_size=5)
)
def test_a_deepspeed_configuration_is_refused_or_agrees_with_the_options(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        config = load_config(with_config(path), "bf16")
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (4, 2)
    assert config["bf16"]["enabled"] and not config["fp16"]["enabled"]


# ---- what was wrong ----------------------------------------------------------------------------------------------


SIZES = "batch_size eval_batch_size gradient_accumulation_steps epochs total_iters warmup_iters max_length "
SIZES += "max_prompt_length train_num dev_num peft_lora_r peft_lora_alpha capacity num_distill_layers "
SIZES += "velocity_n_layers velocity_d_model velocity_epochs log_interval top_k"
ABSURD = [(name, size) for name in SIZES.split() for size in (10**20, 10**400)]
ABSURD += [("velocity_n_layers", 10**8), ("batch_size", 10**9), ("epochs", 10**8)]  # that nobody means


@pytest.mark.parametrize(("name", "size"), ABSURD, ids=lambda value: "" if isinstance(value, int) else value)
def test_bug_absurd_sizes_hung_or_ended_in_a_traceback(name, size):
    longest = ["--max-length", str(size + 1)] if name == "max_prompt_length" else []
    with pytest.raises(UserError, match=r"--[a-z-]+ 10+1? is more than [\d,]+: lower it"):
        parse(Arguments, [*REQUIRED, *longest, flag(name), str(size)])


FINITE = ["temperature", "repetition_penalty", "lm_coef", "loss_eps", "peft_lora_dropout"]


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, value) for name in FINITE for value in ("nan", "inf")), ("peft_lora_dropout", "1.5")],
)
def test_bug_nan_infinity_and_impossible_dropouts_passed_for_numbers(name, value):
    with pytest.raises(UserError, match=f"{flag(name)} .*{value}"):
        parse(Arguments, [*REQUIRED, flag(name), value])


@dataclass
class OnlyTraining:
    training: TrainingArguments


def test_bug_a_file_beside_the_script_added_options_that_nobody_saw(tmp_path):
    (tmp_path / "script.args").write_text("--lr 0.3")
    with mock.patch.object(sys, "argv", [str(tmp_path / "script.py"), "--save", "s"]):
        arguments, _ = parse_arguments(OnlyTraining, "")
    assert arguments.training.lr == 5e-4


@pytest.mark.parametrize("text", ["[]", '{"bf16": true}', '{"zero_optimization": 2}'])
def test_bug_json_that_is_no_deepspeed_configuration_ended_in_a_traceback(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="is not a DeepSpeed configuration"):
        load_config(with_config(tmp_path / "config.json"), "bf16")


@pytest.mark.parametrize(
    ("word", "path", "said"),
    [("run\udcff", "", "not UTF-8"), ("run", "no\nsuch folder", "no\\nsuch folder")],
    ids=[
        "bug_a_path_that_is_not_utf8_broke_off_while_the_record_was_written",
        "bug_a_line_break_in_a_path_made_two_lines_of_an_error",
    ],
)
def test_an_odd_path_is_one_line(word, path, said, capsys):
    def main() -> None:
        raise UserError(path)

    with mock.patch.object(sys, "argv", ["script.py", "--save", word]), pytest.raises(SystemExit):
        run_as_script(main)
    line = capsys.readouterr().err
    assert line.startswith("script.py: error: ") and said in line and line.count("\n") == 1
