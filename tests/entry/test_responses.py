"""DistiLLM-2's pairs: the responses of two models to the same prompts, joined row by row."""

import json
import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest
from datasets import load_from_disk

from data_utils.instructions import read_jsonl
from data_utils.prompts import format_prompt
from distillm.models.generation import ResponseGenerator
from tests.entry.outputs import contents
from tests.entry.processes import at_call, call, run_killed, run_on
from tools import build_response_pairs, generate_responses

SPLITS = {"train": 26, "dev": 10}


@pytest.fixture(scope="module")
def responses(tmp_path_factory, world):
    """A folder with the four files of responses."""
    folder = tmp_path_factory.mktemp("responses")
    for split in SPLITS:
        for side in ("teacher", "student"):
            output, model = folder / f"generated_{split}_{side}.jsonl", getattr(world, side)
            options = world.answering(output, "--model-path", model, split=split)
            assert call(generate_responses.main, options) == 0
    return folder


@pytest.fixture
def answer(run, world, tmp_path):
    """Run `generate_responses.py` on the training prompts: its status and what it said."""
    return lambda name, *more: run(generate_responses.main, world.answering(tmp_path / name, *more))


@pytest.fixture
def refuses(refused, world, tmp_path):
    """Assert that it refuses to write `out.jsonl` in one line that holds these words."""
    return lambda options, *words: refused(
        generate_responses.main, world.answering(tmp_path / "out.jsonl", *options), tmp_path, *words
    )


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- responses ---------------------------------------------------------------------------------------------------


def test_every_row_is_answered_in_order(responses, world):
    for split, count in SPLITS.items():
        prompts = [format_prompt(record) for record in read_jsonl(world.data / "dolly" / f"{split}.jsonl")]
        for side in ("teacher", "student"):
            lines = read_lines(responses / f"generated_{split}_{side}.jsonl")
            assert [line["prompt"] for line in lines] == prompts and len(lines) == count
            assert all(line.keys() == {"prompt", "generated_text"} for line in lines)
            assert len({line["generated_text"] for line in lines}) > count // 2
    assert not list(responses.glob("*.partial"))


def test_neither_the_batch_size_nor_the_number_of_processes_changes_a_response(answer, world, tmp_path):
    in_fp32 = ["--precision", "fp32"]
    assert answer("large", *in_fp32, "--eval-batch-size", 7).status == 0
    run_on(2, generate_responses.main, world.answering(tmp_path / "two", *in_fp32, "--eval-batch-size", 3))
    assert answer("first", *in_fp32, "--train-num", 5).status == 0
    large, two, first = ((tmp_path / name).read_bytes() for name in ("large", "two", "first"))
    assert two == large
    assert first == b"".join(large.splitlines(keepends=True)[:5])


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(torn, responses, answer, world, tmp_path):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    run_killed(generate_responses.main, world.answering(output), (ResponseGenerator, "respond", 3))
    assert not output.exists()
    whole = (responses / "generated_train_student.jsonl").read_bytes()
    assert partial.read_bytes() == b"".join(whole.splitlines(keepends=True)[:16])  # 2 rounds of 4 batches of 2
    if torn:
        partial.write_bytes(partial.read_bytes()[:-9])
    assert answer("out.jsonl").status == 0
    assert output.read_bytes() == whole and not partial.exists()


def test_what_an_interrupted_run_wrote_of_other_prompts_is_refused(responses, refuses, tmp_path):
    partial = tmp_path / "out.jsonl.partial"
    shutil.copy(responses / "generated_dev_student.jsonl", partial)
    refuses([], partial, "other prompts")
    partial.write_text("{oops\n")
    refuses([], partial, "broken")


def test_responses_that_are_complete_are_left_alone(responses, world, run):
    before = contents(responses)
    options = world.answering(responses / "generated_train_student.jsonl", "--eval-batch-size", 3)
    outcome = run(generate_responses.main, options)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.endswith("nothing to do\n")
    assert contents(responses) == before


def test_bug_two_processes_answered_into_one_file_and_half_of_the_rows_were_lost(answer, responses, refuses, tmp_path):
    refusals = []

    def answer_too():
        refuses([], "another process is writing to", tmp_path / "out.jsonl")
        refusals.append(True)

    with at_call(ResponseGenerator, "respond", 1, answer_too):
        assert answer("out.jsonl").status == 0
    assert refusals
    assert (tmp_path / "out.jsonl").read_bytes() == (responses / "generated_train_student.jsonl").read_bytes()


@pytest.mark.parametrize("unfinished", [True, False])
def test_bug_responses_of_other_options_or_weights_are_refused_not_taken(
    unfinished, responses, refuses, world, tmp_path
):
    """They were recognised only by their prompts, which are the same for every model."""
    output = tmp_path / "out.jsonl"
    for ending in ("", ".args.json"):
        shutil.copy(responses / f"generated_train_student.jsonl{ending}", tmp_path / f"out.jsonl{ending}")
    if unfinished:
        output.rename(tmp_path / "out.jsonl.partial")
    refuses(["--top-p", 0.5], "top_p 1.0", "0.5", output)
    refuses(["--model-path", world.teacher], "model_path", world.teacher)


# ---- vLLM --------------------------------------------------------------------------------------------------------


class FakeVllm(ModuleType):
    """Remembers what it was asked for, and answers every prompt alike."""

    def __init__(self):
        super().__init__("vllm")
        self.engine, self.sampling = {}, []

    def LLM(self, model, **options):
        self.engine = {"model": model, **options}
        if options["max_model_len"] > 64:
            raise ValueError("User-specified max_model_len (65)\nis greater than the derived max_model_len (64)")
        return self

    def SamplingParams(self, **options):
        self.sampling.append(options)
        return options

    def generate(self, prompts, sampling):
        assert len(prompts) == len(sampling)
        return [SimpleNamespace(outputs=[SimpleNamespace(text="hello")]) for _ in prompts]


@pytest.fixture
def vllm(monkeypatch):
    fake = FakeVllm()
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return fake


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_bug_vllm_ignored_the_precision_that_the_record_stores(precision, dtype, vllm, answer, world, tmp_path):
    outcome = answer("out.jsonl", "--vllm", "--precision", precision)
    assert outcome.status == 0, outcome.err
    assert vllm.engine.pop("trust_remote_code") is False
    assert vllm.engine == {"model": str(world.student), "dtype": dtype, "max_model_len": 64}
    assert json.loads((tmp_path / "out.jsonl.args.json").read_text())["precision"] == precision
    assert [line["generated_text"] for line in read_lines(tmp_path / "out.jsonl")] == ["hello"] * 26


def test_every_decoding_option_reaches_vllm_and_every_row_and_seed_has_its_own_numbers(vllm, answer):
    options = ["--temperature", 0.7, "--top-p", 0.9, "--repetition-penalty", 1.3, "--top-k"]
    for seed, top_k in ((42, 5), (43, 0)):
        assert answer(f"{seed}.jsonl", "--vllm", "--seed", seed, *options, top_k).status == 0
    numbers = {asked.pop("seed") for asked in vllm.sampling}
    assert len(numbers) == len(vllm.sampling) == 52
    asked = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3, "max_tokens": 16}
    assert vllm.sampling == [{**asked, "top_k": 5}] * 26 + [{**asked, "top_k": -1}] * 26  # vLLM's "all" is -1
    del vllm.sampling[:]
    assert answer("greedy", "--vllm", "--do-sample", "false").status == 0
    assert {asked["temperature"] for asked in vllm.sampling} == {0.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--no-repeat-ngram-size", 6], ["vLLM cannot do --no-repeat-ngram-size 6"]),
        (["--peft-path", "adapter"], ["--vllm runs", "no adapter"]),
        (["--max-new-tokens", 17], ["vLLM cannot load", "max_model_len (65)", "(64)"]),
    ],
    ids=lambda value: str(value[0]),
)
def test_bug_what_vllm_cannot_do_was_stored_as_done(options, words, vllm, refuses):
    refuses(["--vllm", *options], *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vllm"], ["--vllm", "not installed"]),
        (["--max-new-tokens", 17], ["--max-prompt-length 48", "--max-new-tokens 17", "64"]),
        (["--train-num", 0], ["--train-num", "0"]),
        (["--data", "nowhere.jsonl"], ["nowhere.jsonl does not exist"]),
        (["--model-path", ""], ["--model-path"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_a_bad_option_of_the_generator_is_one_line(options, words, refuses, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    refuses(options, *words)


def test_a_file_without_records_is_one_line(refuses, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    refuses(["--data", tmp_path / "empty.jsonl"], "empty.jsonl holds no record")


# ---- joining -----------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(responses, tmp_path):
    """A copy of the responses, to be damaged, and the options to join them."""
    folder = shutil.copytree(responses, tmp_path / "responses")
    return folder, ["--responses", folder, "--output", tmp_path / "pairs"]


def test_pairs_are_joined_row_by_row_name_their_models_and_replace_older_pairs(copied, run, world, tmp_path):
    folder, options = copied
    for _ in range(2):
        assert run(build_response_pairs.main, options).status == 0
    models = json.loads((tmp_path / "pairs" / "models.json").read_text())
    assert models["arguments"]["teacher_model_path"] == str(world.teacher)
    assert "model.safetensors" in models["inputs"]["model_path"]
    tables = load_from_disk(str(tmp_path / "pairs"))
    assert set(tables) == set(SPLITS)
    for split, table in tables.items():
        teacher, student = (read_lines(folder / f"generated_{split}_{side}.jsonl") for side in ("teacher", "student"))
        assert table.column_names == ["prompt", "chosen", "rejected"]
        assert list(table["prompt"]) == [line["prompt"] for line in teacher]
        assert list(table["chosen"]) == [line["generated_text"] for line in teacher]
        assert list(table["rejected"]) == [line["generated_text"] for line in student]


def test_pairs_replace_nothing_else(copied, refused, tmp_path):
    folder, _ = copied
    refused(build_response_pairs.main, ["--responses", folder, "--output", folder], tmp_path, folder, "--output")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"prompt": "another", "generated_text": "x"}\n', ["line 3 of", "different prompts"]),
        (b"", ["26 rows", "25"]),
        (b"{oops\n", [":3 is not a response"]),
        (b'{"prompt": "x"}\n', [":3 is not a response", "`generated_text`"]),
        (b'{"prompt": "x", "generated_text": null}\n', [":3 is not a response", "`generated_text`"]),
        (b'{"prompt": "x", "generated_text": "\xff"}\n', [":3 is not a response"]),
        (b"[]\n", [":3 is not a response"]),
    ],
)
def test_responses_that_do_not_fit_together_are_one_line(line, words, copied, refused, tmp_path):
    folder, options = copied
    path = folder / "generated_train_student.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], line, *lines[3:]]))
    refused(build_response_pairs.main, options, tmp_path, path, *words)


def test_a_missing_or_empty_file_of_responses_is_one_line(copied, refused, tmp_path):
    folder, options = copied
    path = folder / "generated_dev_teacher.jsonl"
    path.write_text("")
    refused(build_response_pairs.main, options, tmp_path, path, "tools/generate_responses.py")
    path.unlink()
    refused(build_response_pairs.main, options, tmp_path, path, "tools/generate_responses.py")


def test_a_last_line_without_a_line_break_is_a_row(copied, run, tmp_path):
    folder, options = copied
    for path in folder.glob("generated_dev_*.jsonl"):
        path.write_bytes(path.read_bytes()[:-1])
    assert run(build_response_pairs.main, options).status == 0
    assert len(load_from_disk(str(tmp_path / "pairs"))["dev"]) == 10
