"""What an evaluation writes, what it shares, and what it computes again."""

import json
import shutil

import pytest

import evaluate
from data_utils.instructions import load_evaluation_set, references
from distillm.metrics import compute_metrics
from tests.entry.answers import answers
from tests.entry.outputs import contents
from tests.entry.processes import call
from tests.entry.tiny_world import exchange_weights


@pytest.fixture(scope="module")
def results(world, tmp_path_factory):
    """The results of 2 sets and 2 seeds."""
    save = tmp_path_factory.mktemp("results")
    assert call(evaluate.main, world.evaluation(save)) == 0
    return save


@pytest.fixture
def loads(monkeypatch):
    """Counts how often a model is loaded, and how many prompts each batch has."""
    counts = {"models": 0, "batches": []}
    load, respond = evaluate.load_causal_lm, evaluate.ResponseGenerator._respond_batch

    def counting_load(*arguments, **keywords):
        counts["models"] += 1
        return load(*arguments, **keywords)

    def counting_respond(self, model, prompts, uniforms):
        counts["batches"].append(len(prompts))
        return respond(self, model, prompts, uniforms)

    monkeypatch.setattr(evaluate, "load_causal_lm", counting_load)
    monkeypatch.setattr(evaluate.ResponseGenerator, "_respond_batch", counting_respond)
    return counts


def test_all_sets_and_seeds_share_one_model_and_its_batches(score, loads, tmp_path):
    names = ["dolly", "self_inst", "vicuna", "sinst", "uinst"]
    assert score(tmp_path, "--data-names", *names, "--seeds", 10, 20, 30, "--eval-batch-size", 64).status == 0
    assert loads == {"models": 1, "batches": [64, 26]}  # 5 sets of 6 rows, 3 seeds
    folders = {f"{name}-64/{seed}" for name in names for seed in (10, 20, 30)}
    assert {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("metrics.json")} == folders
    for folder in folders:
        files = {path.name for path in (tmp_path / folder).iterdir()}
        assert files == {"args.json", "answers.jsonl", "metrics.json", "log.txt"}


def test_the_metrics_agree_with_the_answers_beside_them(results, world):
    for path, lines in answers(results).items():
        name, seed = path.split("/")[0].removesuffix("-64"), int(path.split("/")[1])
        records = load_evaluation_set(world.data, name)
        assert [line["prompt"] for line in lines] == [record["prompt"] for record in records]
        assert [line["references"] for line in lines] == [references(record) for record in records]
        folder = (results / path).parent
        recomputed = compute_metrics([line["answer"] for line in lines], [line["references"] for line in lines])
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics == pytest.approx({**recomputed, "rows": len(records)})
        record = json.loads((folder / "args.json").read_text())
        assert (record["seed"], record["data_name"]) == (seed, name)


def test_answers_depend_on_set_and_seed_and_greedy_ones_on_the_set(results, score, tmp_path):
    def texts(save):
        return {tuple(line["answer"] for line in lines) for lines in answers(save).values()}

    assert len(texts(results)) == 4
    assert score(tmp_path, "--do-sample", "false", "--num-rows", 2).status == 0
    assert len(texts(tmp_path)) <= 2
    assert all(json.loads(path.read_text())["rows"] == 2 for path in tmp_path.rglob("metrics.json"))


def test_finished_pairs_of_set_and_seed_are_skipped(score, loads, tmp_path):
    assert score(tmp_path, "--seeds", 10).status == 0
    before = contents(tmp_path)
    assert score(tmp_path, "--seeds", 10, 20).status == 0
    assert sum(loads["batches"]) == 2 * 6 + 2 * 6
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    again = score(tmp_path, "--seeds", 10, 20)
    assert again.out.endswith("holds all of these results: nothing to do\n")
    assert loads["models"] == 2
    assert contents(tmp_path) == after


def test_results_of_other_weights_or_options_are_evaluated_anew(score, world, results, tmp_path):
    model, save = shutil.copytree(world.student, tmp_path / "model"), shutil.copytree(results, tmp_path / "results")
    options = save, "--model-path", model
    shutil.copy(world.steady_student / "model.safetensors", model)  # the same weights: nothing is stale
    assert "nothing to do" in score(*options).out
    exchange_weights(model)
    assert score(*options).out.count("evaluated again") == 4
    assert score(*options, "--temperature", 0.5).out.count("evaluated again") == 4
    assert "nothing to do" in score(*options, "--temperature", 0.5).out


def test_bug_results_of_an_adapter_stood_though_its_base_model_had_changed(train, score, world, tmp_path):
    base, adapter = shutil.copytree(world.llama, tmp_path / "base"), tmp_path / "adapter"
    lora = ["--model-type", "llama", "--peft", "lora", "--total-iters", 2]
    assert train(adapter, *lora, student=base).status == 0
    options = tmp_path / "results", "--model-path", adapter, "--num-rows", 2
    assert score(*options).status == 0
    assert "nothing to do" in score(*options).out
    exchange_weights(base)
    assert score(*options).out.count("evaluated again") == 4
