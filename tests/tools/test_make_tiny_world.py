"""The tiny world: the same bytes every time, sets that do not overlap, and models the pipeline can load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_utils.errors import UserError
from data_utils.randomness import keyed_generator
from tools import make_tiny_models, make_tiny_world
from tools.make_tiny_models import train_tokenizer
from tools.make_tiny_world import Author
from tools.tiny_tasks import name_some
from tools.tiny_world import make_people

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--train-num", "40", "--teacher-train-num", "120", "--dev-num", "18", "--test-num", "18", "--documents", "60"]
TEST_SETS = ["dolly", "self-inst", "vicuna", "sinst/11_", "uinst/11_"]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompts(path: Path) -> set[str]:
    return {row["prompt"] for row in read_rows(path)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """By another process, in which strings have other hashes."""
    folder = tmp_path_factory.mktemp("tiny") / "world"
    command = [sys.executable, "tools/make_tiny_world.py", "--output", folder, *SMALL]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return folder


def test_the_same_options_give_the_same_bytes_and_another_seed_another_world(world, run, tmp_path):
    run(make_tiny_world, "--output", tmp_path / "again", *SMALL)
    assert contents(world) == contents(tmp_path / "again")
    run(make_tiny_world, "--output", tmp_path / "other", *SMALL, "--seed", 11)
    other = contents(tmp_path / "other")
    assert other.keys() == contents(world).keys()
    assert all(other[name] != data for name, data in contents(world).items())


def test_no_prompt_of_a_test_or_dev_set_occurs_in_any_other_set(world):
    apart = [world / name / "valid.jsonl" for name in TEST_SETS] + [world / "dolly" / "dev.jsonl"]
    training = prompts(world / "teacher" / "train.jsonl")
    for index, path in enumerate(apart):
        assert len(prompts(path)) == 18, "prompts repeat inside a set"
        assert not prompts(path) & training
        assert not any(prompts(path) & prompts(other) for other in apart[index + 1 :])


def test_the_student_trains_on_the_first_rows_of_the_teacher(world):
    student, teacher = (read_rows(world / name / "train.jsonl") for name in ("dolly", "teacher"))
    assert student == teacher[:40]
    assert read_rows(world / "dolly" / "dev.jsonl") == read_rows(world / "teacher" / "dev.jsonl")


def test_training_rows_have_one_answer_and_open_test_rows_several(world):
    assert all(isinstance(row["output"], str) for row in read_rows(world / "dolly" / "train.jsonl"))
    assert all(len(row["output"]) > 1 for row in read_rows(world / "vicuna" / "valid.jsonl"))
    assert all(row["input"] for row in read_rows(world / "sinst/11_/valid.jsonl"))


def test_the_models_share_a_tokenizer_that_keeps_rows_short(world, run, tmp_path):
    sizes = ["--vocabulary", "400", "--teacher-width", "48", "--student-width", "32"]
    run(make_tiny_models, "--world", world, "--output", tmp_path / "models", *sizes)
    texts = [row["prompt"] + row["output"] for row in read_rows(world / "teacher" / "train.jsonl")]
    for role, width in (("teacher", 48), ("student", 32)):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "models" / role)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / role)
        assert (model.config.n_embd, model.config.vocab_size) == (width, len(tokenizer))
        assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
        encoded = [tokenizer(text)["input_ids"] for text in texts]
        assert [tokenizer.decode(ids) for ids in encoded] == texts
        assert sum(map(len, encoded)) / len(encoded) < 60
        assert tokenizer.get_vocab() == train_tokenizer(world, 400, 256).get_vocab()


def test_more_rows_than_there_are_prompts_is_refused():
    author = Author(make_people(keyed_generator(1, "people")), seed=1)
    with pytest.raises(UserError, match="ask for at most"):
        author.reserved_rows("lists", 100, [name_some])


def test_more_rows_of_the_student_than_of_the_teacher_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="--train-num 9000 exceeds --teacher-train-num 8000"):
        run(make_tiny_world, "--output", tmp_path / "out", "--train-num", 9000)
    assert not (tmp_path / "out").exists()


def test_a_world_that_is_missing_is_named_with_the_tool_that_makes_it(run, tmp_path):
    with pytest.raises(UserError, match=r"data.txt is missing: make it with tools/make_tiny_world.py"):
        run(make_tiny_models, "--world", tmp_path, "--output", tmp_path / "models")
