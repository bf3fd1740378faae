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
from tools import build_response_pairs, generate_responses

ROOMS = ["--max-prompt-length", "48", "--max-new-tokens", "16"]


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
    answering, call_script, run_on_two, tmp_path
):
    def options(name, *more):
        return answering(tmp_path / name, "--precision", "fp32", *more)

    def read(name):
        return (tmp_path / name).read_bytes()

    assert call_script(generate_responses.main, options("small")) == 0
    assert call_script(generate_responses.main, options("large", "--eval-batch-size", 7)) == 0
    run_on_two(generate_responses.main, options("two", "--eval-batch-size", 3))
    assert read("large") == read("two") == read("small")
    assert call_script(generate_responses.main, options("first", "--train-num", 5)) == 0
    assert read("first") == b"".join(read("small").splitlines(keepends=True)[:5])


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(torn, responses, answering, run_killed, run, tmp_path):
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    run_killed(generate_responses.main, answering(output), ResponseGenerator, "respond", 3)
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


def test_bug_two_processes_answered_into_one_file_and_half_of_the_rows_were_lost(
    answering, responses, refused, run, tmp_path, monkeypatch
):
    output, original, second = tmp_path / "out.jsonl", ResponseGenerator.respond, []

    def respond(*arguments, **keywords):
        if not second:
            second.append(True)
            refused(generate_responses.main, answering(output), tmp_path, "another process writes to", output)
        return original(*arguments, **keywords)

    monkeypatch.setattr(ResponseGenerator, "respond", respond)
    assert run(generate_responses.main, answering(output)).status == 0 and second
    assert output.read_bytes() == (responses / "generated_train_student.jsonl").read_bytes()


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
def test_bug_vllm_ignored_the_precision_that_the_record_stores(precision, dtype, vllm, answering, run, world, tmp_path):
    output = tmp_path / "out.jsonl"
    outcome = run(generate_responses.main, answering(output, "--vllm", "--precision", precision))
    assert outcome.status == 0, outcome.err
    assert vllm.engine.pop("trust_remote_code") is False
    assert vllm.engine == {"model": str(world.student), "dtype": dtype, "max_model_len": 64}
    assert json.loads((tmp_path / "out.jsonl.args.json").read_text())["precision"] == precision
    assert [line["generated_text"] for line in read_lines(output)] == ["hello"] * 26


def test_every_decoding_option_reaches_vllm_and_every_row_and_seed_has_its_own_numbers(vllm, answering, run, tmp_path):
    options = ["--temperature", 0.7, "--top-p", 0.9, "--repetition-penalty", 1.3, "--top-k"]
    for seed, top_k in ((42, 5), (43, 0)):
        words = answering(tmp_path / f"{seed}.jsonl", "--vllm", "--seed", seed, *options, top_k)
        assert run(generate_responses.main, words).status == 0
    numbers = {asked.pop("seed") for asked in vllm.sampling}
    assert len(numbers) == len(vllm.sampling) == 52
    asked = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3, "max_tokens": 16}
    assert vllm.sampling == [{**asked, "top_k": 5}] * 26 + [{**asked, "top_k": -1}] * 26  # vLLM's "all" is -1
    del vllm.sampling[:]
    assert run(generate_responses.main, answering(tmp_path / "greedy", "--vllm", "--do-sample", "false")).status == 0
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
def test_bug_what_vllm_cannot_do_was_stored_as_done(options, words, vllm, answering, refused, tmp_path):
    refused(generate_responses.main, answering(tmp_path / "out.jsonl", "--vllm", *options), tmp_path, *words)


def test_a_file_without_records_is_one_line(answering, refused, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    options = answering(tmp_path / "out.jsonl", "--data", tmp_path / "empty.jsonl")
    refused(generate_responses.main, options, tmp_path, "empty.jsonl holds no record")


# ---- joining -----------------------------------------------------------------------------------------------------


def test_pairs_are_joined_row_by_row_and_name_their_models(pairs, responses, world):
    models = json.loads((pairs / "models.json").read_text())
    assert models["arguments"]["teacher_model_path"] == str(world.teacher)
    assert "model.safetensors" in models["inputs"]["model_path"]
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
