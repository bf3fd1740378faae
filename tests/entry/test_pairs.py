"""DistiLLM-2's pairs, from the responses of two models to a trained student."""

import json
import shutil
import sys

import pytest
from datasets import load_from_disk

import finetune
import train_velocity_field
from contra.training import FieldTrainer
from data_utils.instructions import read_jsonl
from data_utils.prompts import format_prompt
from distillm.generation import Generator
from distillm.trainer import Trainer
from tools import build_response_pairs, generate_responses

ROOMS = ["--max-prompt-length", "48", "--max-new-tokens", "16"]
STEPS_PER_EPOCH = 6  # 26 pairs in steps of 4


@pytest.fixture(scope="session")
def answering(world):
    """Return the options of `generate_responses.py`."""

    def options(output, *more, model=world.student, split="train"):
        data = world.data / "dolly" / f"{split}.jsonl"
        words = ["--data", data, "--model-path", model, "--output", output, "--eval-batch-size", 2, *ROOMS]
        return [str(word) for word in (*words, *more)]

    return options


@pytest.fixture(scope="session")
def responses(tmp_path_factory, world, answering, call_script):
    """A folder with the four files of responses."""
    folder = tmp_path_factory.mktemp("responses")
    for split in ("train", "dev"):
        for side, model in (("teacher", world.teacher), ("student", world.student)):
            options = answering(folder / f"generated_{split}_{side}.jsonl", model=model, split=split)
            assert call_script(generate_responses.main, options) == 0
    return folder


@pytest.fixture(scope="session")
def pairs(responses, tmp_path_factory, call_script):
    """The folder of pairs made of these responses."""
    folder = tmp_path_factory.mktemp("pairs") / "formatted"
    assert call_script(build_response_pairs.main, ["--responses", responses, "--output", folder]) == 0
    return folder


@pytest.fixture
def refused(run, contents):
    """Assert that a script refuses its options in one line with these words, and leaves a folder as it was."""

    def assert_refused(main, options, folder, *words):
        before = contents(folder)
        outcome = run(main, options)
        assert outcome.status == 1
        (line,) = outcome.err.splitlines()
        assert ".py: error: " in line
        for word in words:
            assert str(word) in line
        assert contents(folder) == before, "something was written"

    return assert_refused


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- responses ---------------------------------------------------------------------------------------------------


def test_every_row_is_answered_in_order(responses, world):
    for split, count in (("train", 26), ("dev", 10)):
        prompts = [format_prompt(record) for record in read_jsonl(world.data / "dolly" / f"{split}.jsonl")]
        for side in ("teacher", "student"):
            lines = read_lines(responses / f"generated_{split}_{side}.jsonl")
            assert [line["prompt"] for line in lines] == prompts and len(lines) == count
            assert all(line.keys() == {"prompt", "generated_text"} for line in lines)
            assert len({line["generated_text"] for line in lines}) > count // 2
    assert not list(responses.glob("*.partial"))


def test_neither_the_batch_size_nor_the_number_of_processes_changes_a_response(
    responses, answering, call_script, run_on_two, tmp_path
):
    whole = (responses / "generated_train_student.jsonl").read_bytes()
    options = answering(tmp_path / "large.jsonl", "--eval-batch-size", 7)
    assert call_script(generate_responses.main, options) == 0
    run_on_two(generate_responses.main, answering(tmp_path / "two.jsonl", "--eval-batch-size", 3))
    assert (tmp_path / "large.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes() == whole
    options = answering(tmp_path / "first.jsonl", "--train-num", 5)
    assert call_script(generate_responses.main, options) == 0
    assert (tmp_path / "first.jsonl").read_bytes() == b"".join(whole.splitlines(keepends=True)[:5])


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(torn, responses, answering, run_killed, run, tmp_path):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    run_killed(generate_responses.main, answering(output), Generator, "respond", 3)
    assert not output.exists()
    whole = (responses / "generated_train_student.jsonl").read_bytes()
    assert partial.read_bytes() == b"".join(whole.splitlines(keepends=True)[:16])  # 2 rounds of 4 batches of 2
    if torn:
        partial.write_bytes(partial.read_bytes()[:-9])
    assert run(generate_responses.main, answering(output)).status == 0
    assert output.read_bytes() == whole and not partial.exists()


def test_what_an_interrupted_run_wrote_of_other_prompts_is_refused(responses, answering, refused, tmp_path):
    partial = tmp_path / "out.jsonl.partial"
    shutil.copy(responses / "generated_dev_student.jsonl", partial)
    refused(generate_responses.main, answering(tmp_path / "out.jsonl"), tmp_path, partial, "other prompts")
    partial.write_text("{oops\n")
    refused(generate_responses.main, answering(tmp_path / "out.jsonl"), tmp_path, partial, "broken")


def test_responses_that_stand_are_left_alone(responses, answering, run, contents):
    before = contents(responses)
    output = responses / "generated_train_student.jsonl"
    outcome = run(generate_responses.main, answering(output, "--eval-batch-size", 3))
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.endswith("nothing to do\n")
    assert contents(responses) == before


@pytest.mark.parametrize("unfinished", [True, False])
def test_bug_responses_of_other_options_or_weights_are_refused_not_taken(
    unfinished, responses, answering, refused, world, tmp_path
):
    """They were recognised by their prompts alone, which every model shares."""
    output = tmp_path / "out.jsonl"
    for ending in ("", ".args.json"):
        shutil.copy(responses / f"generated_train_student.jsonl{ending}", tmp_path / f"out.jsonl{ending}")
    if unfinished:
        output.rename(tmp_path / "out.jsonl.partial")
    refused(generate_responses.main, answering(output, "--top-p", 0.5), tmp_path, "top_p 1.0", "0.5", output)
    refused(generate_responses.main, answering(output, model=world.teacher), tmp_path, "model_path", world.teacher)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vllm"], ["--vllm", "not installed"]),
        (["--max-new-tokens", 17], ["--max-prompt-length 48", "--max-new-tokens 17", "64"]),
        (["--train-num", 0], ["--train-num", "0"]),
        (["--data", "nowhere.jsonl"], ["nowhere.jsonl does not exist"]),
        (["--model-path", ""], ["--model-path"]),
    ],
    ids=lambda value: str(value[0]),
)
def test_a_bad_option_of_the_generator_is_one_line(options, words, answering, refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    refused(generate_responses.main, answering(tmp_path / "out.jsonl", *options), tmp_path, *words)


def test_a_file_without_records_is_one_line(answering, refused, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    options = answering(tmp_path / "out.jsonl", "--data", tmp_path / "empty.jsonl")
    refused(generate_responses.main, options, tmp_path, "empty.jsonl holds no record")


# ---- joining -----------------------------------------------------------------------------------------------------


def test_pairs_are_joined_row_by_row_and_name_their_models(pairs, responses, world):
    models = json.loads((pairs / "models.json").read_text())
    assert models["arguments"]["teacher_model_path"] == str(world.teacher)
    assert models["inputs"]["model_path"].keys() == {"model.safetensors"}
    tables = load_from_disk(str(pairs))
    assert set(tables) == {"train", "dev"}
    for split, table in tables.items():
        teacher, student = (
            read_lines(responses / f"generated_{split}_{side}.jsonl") for side in ("teacher", "student")
        )
        assert table.column_names == ["prompt", "chosen", "rejected"]
        assert list(table["prompt"]) == [line["prompt"] for line in teacher]
        assert list(table["chosen"]) == [line["generated_text"] for line in teacher]
        assert list(table["rejected"]) == [line["generated_text"] for line in student]


@pytest.fixture
def damaged(responses, tmp_path):
    """A copy of the responses, to be damaged, and the options to join them."""
    folder = shutil.copytree(responses, tmp_path / "responses")
    return folder, ["--responses", folder, "--output", tmp_path / "pairs"]


def replace_line(path, number, line):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1 : number] = [line]
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"prompt": "another", "generated_text": "x"}\n', ["line 3 of", "different prompts"]),
        (b"", ["26 rows", "25"]),
        (b"{oops\n", [":3 is no response"]),
        (b'{"prompt": "x"}\n', [":3 is no response", "`generated_text`"]),
        (b'{"prompt": "x", "generated_text": null}\n', [":3 is no response", "`generated_text`"]),
        (b'{"prompt": "x", "generated_text": "\xff"}\n', [":3 is no response"]),
        (b"[]\n", [":3 is no response"]),
    ],
)
def test_responses_that_do_not_fit_together_are_one_line(line, words, damaged, refused, tmp_path):
    folder, options = damaged
    path = folder / "generated_train_student.jsonl"
    replace_line(path, 3, line)
    refused(build_response_pairs.main, options, tmp_path, path, *words)


def test_a_missing_or_empty_file_of_responses_is_one_line(damaged, refused, tmp_path):
    folder, options = damaged
    path = folder / "generated_dev_teacher.jsonl"
    path.write_text("")
    refused(build_response_pairs.main, options, tmp_path, path, "tools/generate_responses.py")
    path.unlink()
    refused(build_response_pairs.main, options, tmp_path, path, "tools/generate_responses.py")


def test_a_last_line_without_a_line_break_is_a_row(damaged, run, tmp_path):
    folder, options = damaged
    for side in ("teacher", "student"):
        path = folder / f"generated_dev_{side}.jsonl"
        path.write_bytes(path.read_bytes()[:-1])
    assert run(build_response_pairs.main, options).status == 0
    assert len(load_from_disk(str(tmp_path / "pairs"))["dev"]) == 10


def test_pairs_replace_older_pairs_and_nothing_else(damaged, run, refused, tmp_path, contents):
    folder, options = damaged
    refused(build_response_pairs.main, ["--responses", folder, "--output", folder], tmp_path, folder, "--output")
    assert run(build_response_pairs.main, options).status == 0
    first = contents(tmp_path / "pairs")
    assert run(build_response_pairs.main, options).status == 0
    assert contents(tmp_path / "pairs").keys() == first.keys()


# ---- training on pairs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pair_options(world, pairs):
    """Return the options of DistiLLM-2 + CONTRA with everything that happens after an epoch."""

    def options(save, *more, type="distillm2-v2-contra"):
        words = ["--data-dir", pairs, "--gt-data-dir", world.store, "--epochs", 2, "--gradual-beta", *more]
        return world.training(save, *words, type=type)

    return options


@pytest.fixture
def seen_rows(monkeypatch):
    """Record the rows of every step: {step: {row id: ids}}."""
    original, steps = Trainer.prepare, {}

    def prepare(trainer, step):
        micro_batches = original(trainer, step)
        (batch,) = (micro_batch["instruction"] for micro_batch in micro_batches)
        lengths = batch.attention_mask.sum(1).tolist()
        rows = zip(batch.row_ids.tolist(), batch.input_ids.tolist(), lengths, strict=True)
        steps[step] = {row_id: ids[:length] for row_id, ids, length in rows}
        return micro_batches

    monkeypatch.setattr(Trainer, "prepare", prepare)
    return steps


def rows_of_epoch(steps, epoch, side):
    """Return the rows of an epoch (from 1), side 0 the chosen and 1 the rejected ones."""
    epochs = [rows for step, rows in steps.items() if (step - 1) // STEPS_PER_EPOCH + 1 == epoch]
    return {row_id: ids for rows in epochs for row_id, ids in rows.items() if row_id % 2 == side}


def differing(steps, first, second, side):
    """Return the share of the rows in both epochs that differ."""
    before, after = rows_of_epoch(steps, first, side), rows_of_epoch(steps, second, side)
    common = before.keys() & after.keys()
    assert len(common) > 15
    return sum(before[row_id] != after[row_id] for row_id in common) / len(common)


def test_a_run_on_pairs_writes_its_rejected_responses_and_its_field_anew(
    pair_options, run, seen_rows, read_log, tmp_path
):
    save = tmp_path / "save"
    assert run(finetune.main, pair_options(save)).status == 0
    log = read_log(save)
    for event in ("mean_rejected_length", "velocity_field_loss"):
        assert [record["step"] for record in log if event in record] == [STEPS_PER_EPOCH]  # not after the last
    assert [record["step"] for record in log if "dev_loss" in record] == [0, 6, 12]
    losses = [record for record in log if "loss" in record]
    terms = "distillm2", "contra", "corpus"
    assert all(record["loss"] == pytest.approx(sum(record[name] for name in terms)) for record in losses)
    assert differing(seen_rows, 1, 2, side=0) == 0
    assert differing(seen_rows, 1, 2, side=1) > 0.8
    assert (save / "model.safetensors").exists() and (save / "velocity_field.json").exists()


def test_the_interval_says_after_which_epochs_responses_are_written_anew(
    pair_options, run, seen_rows, read_log, tmp_path
):
    options = pair_options(tmp_path / "save", "--generate-sgo-interval", 2, "--epochs", 3, type="distillm2-v1")
    assert run(finetune.main, options).status == 0
    events = [record["step"] for record in read_log(tmp_path / "save") if "mean_rejected_length" in record]
    assert events == [2 * STEPS_PER_EPOCH]
    assert differing(seen_rows, 1, 2, side=1) == 0
    assert differing(seen_rows, 2, 3, side=1) > 0.8


def test_a_killed_run_on_pairs_ends_bitwise_like_an_uninterrupted_one(
    pair_options, run_killed, call_script, contents, tmp_path
):
    def result(save):
        return {name: data for name, data in contents(save).items() if name not in ("args.json", "training.log")}

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call_script(finetune.main, pair_options(whole)) == 0
    run_killed(finetune.main, pair_options(killed), Trainer, "_train_step", STEPS_PER_EPOCH + 3)
    assert (killed / "checkpoints" / "latest").read_text() == "step-00000006\n"
    assert call_script(finetune.main, pair_options(killed)) == 0
    assert result(killed) == result(whole)


def test_two_processes_write_the_same_rejected_responses_and_losses(
    pair_options, world, call_script, run_on_two, read_log, tmp_path
):
    def options(save, batch_size):
        student = ["--model-path", world.steady_student]
        return pair_options(save, *student, "--batch-size", batch_size, "--lr", 1e-3, type="distillm2-v2")

    assert call_script(finetune.main, options(tmp_path / "one", 4)) == 0
    run_on_two(finetune.main, options(tmp_path / "two", 2))
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [record.keys() for record in one] == [record.keys() for record in two]
    for ours, theirs in zip(one, two, strict=True):
        assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-4)


def test_stage_1_stacks_the_chosen_and_the_rejected_rows(pairs, train_field, read_log, monkeypatch, tmp_path):
    original, batches = FieldTrainer._sum, []

    def record(trainer, batch):
        batches.append(batch.row_ids.tolist())
        return original(trainer, batch)

    monkeypatch.setattr(FieldTrainer, "_sum", record)
    assert train_field(tmp_path / "field", "--data-dir", pairs).status == 0
    assert len(batches) == 2 * STEPS_PER_EPOCH
    for ids in batches:
        chosen, rejected = ids[:4], ids[4:]
        assert all(row_id % 2 == 0 for row_id in chosen) and rejected == [row_id + 1 for row_id in chosen]
    assert max(record["step"] for record in read_log(tmp_path / "field")) == 2 * STEPS_PER_EPOCH


def test_pairs_built_of_other_responses_do_not_continue_an_old_run(pair_options, pairs, run, refused, world, tmp_path):
    save, folder = tmp_path / "save", shutil.copytree(pairs, tmp_path / "pairs")
    options = pair_options(save, "--data-dir", folder, "--total-iters", 1, type="distillm2-v2")
    assert run(finetune.main, options).status == 0
    (arrow,) = folder.glob("train/*.arrow")
    arrow.write_bytes(arrow.read_bytes().replace(b"Say red.", b"Say tan."))
    refused(finetune.main, options, save, "holds a run with another content of data_dir", folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gt-data-dir", None], ["--gt-data-dir", "distillm2-v2"]),
        (["--kd-ratio", 0.5], ["--kd-ratio must be 1", "0.5", "distillm2-v2"]),
        (["--data-dir", "the store"], ["the store", "holds no response pairs", "tools/build_response_pairs.py"]),
        (["--do-valid", None, "--max-length", 128], ["--max-length 128", "64"]),
        (["--generate-sgo-interval", 0], ["--generate-sgo-interval", "0"]),
    ],
    ids=lambda value: str(value[0]),
)
def test_a_bad_option_of_training_on_pairs_is_one_line(options, words, pair_options, world, refused, tmp_path):
    command = pair_options(tmp_path / "save", type="distillm2-v2")
    for name, value in zip(options[::2], options[1::2], strict=True):
        if value is None:
            at = command.index(name)
            del command[at : at + (1 if name == "--do-valid" else 2)]
        else:
            command += [name, str(world.store) if value == "the store" else str(value)]
    words = [world.store if word == "the store" else word for word in words]
    refused(finetune.main, command, tmp_path, *words)


def test_stage_1_on_pairs_refuses_rows_longer_than_the_model_knows(pairs, world, refused, tmp_path):
    options = world.stage_1(tmp_path / "save", "--data-dir", pairs, "--max-length", 128)
    refused(train_velocity_field.main, options, tmp_path, "--max-length 128", "64")
