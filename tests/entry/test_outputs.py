"""What a run leaves behind, and which of its models it keeps."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import evaluate
import finetune
from data_utils.instructions import load_evaluation_set, references
from distillm.metrics import compute_metrics
from tests.entry.conftest import exchange_weights

# One epoch has 6 steps of 4 rows: 26 rows, of which two have to wait for the next permutation.
STEPS_PER_EPOCH = 6


@pytest.fixture
def weights():
    """Return the embeddings of a saved model: different ones for different models."""
    return lambda folder: AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.detach()


# ---- training ----------------------------------------------------------------------------------------------------


def test_the_save_folder_is_a_model_that_loads_and_generates(train, world, tmp_path):
    save = tmp_path / "save"
    assert train(save, type="kd").status == 0
    model, tokenizer = AutoModelForCausalLM.from_pretrained(save), AutoTokenizer.from_pretrained(save)
    prompt = tokenizer("Say red.", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=5, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    assert answer.shape[1] > prompt["input_ids"].shape[1]
    assert model.dtype == torch.float32
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(world.student).get_vocab()


def test_a_run_leaves_its_records_and_nothing_of_its_training_state(train, world, read_log, tmp_path):
    save = tmp_path / "save"
    assert train(save, type="adaptive-srkl-contra").status == 0
    names = {path.name for path in save.iterdir()}
    assert {"config.json", "model.safetensors", "args.json", "log.jsonl", "training.log", "finished.json"} <= names
    assert {f"{name}.{end}" for name in ("velocity_field", "projector") for end in ("json", "safetensors")} <= names
    assert not [path for path in save.iterdir() if path.is_dir() or path.name.startswith(".")]
    record = json.loads((save / "args.json").read_text())
    assert record["arguments"]["type"] == "adaptive-srkl-contra"
    assert record["arguments"]["skew_alpha"] == 0.1
    assert (record["seed"], record["global_batch_size"]) == (10, 4)
    assert record["command"][0] == "finetune.py"
    models = {"model_path", "teacher_model_path", "velocity_field_path"}
    assert record["inputs"].keys() == models | {"data_dir", "lm_data_dir"}
    assert {"train_0.bin", "train_0.idx", "valid.jsonl"} <= record["inputs"]["data_dir"].keys()
    assert all({"config.json", "velocity_field.json"} & record["inputs"][name].keys() for name in models)
    assert {"torch", "transformers"} <= record["versions"].keys()
    training = [line for line in read_log(save) if "loss" in line]
    assert [line["step"] for line in training] == list(range(2, 19, 2))
    assert {"epoch", "srkl", "corpus", "contra", "gradient_norm", "lr", "threshold"} <= training[0].keys()
    assert training[0]["loss"] == pytest.approx(sum(training[0][name] for name in ("srkl", "corpus", "contra")))
    validated = [line["step"] for line in read_log(save) if "dev_loss" in line]
    assert validated == [0, 6, 12, 18]
    text = (save / "training.log").read_text()
    assert "\nstarted\n" in text and "step 18 | epoch 3 | loss " in text


def test_a_second_identical_command_says_that_there_is_nothing_to_do(train, train_field, tmp_path, contents):
    for run, name in ((train, "model"), (train_field, "field")):
        assert run(tmp_path / name).status == 0
        before = contents(tmp_path / name)
        again = run(tmp_path / name)
        assert (again.status, again.err) == (0, "")
        assert again.out.endswith("nothing to do (--resume never starts it afresh)\n")
        assert contents(tmp_path / name) == before


def test_an_epoch_has_as_many_steps_as_whole_batches_and_at_least_one(train, read_log, tmp_path):
    for name, options, steps in (
        ("floor", ["--batch-size", 4, "--gradient-accumulation-steps", 2], 3 * 3),
        ("few", ["--batch-size", 40], 3),
        ("rows", ["--train-num", 9], 3 * 2),
        ("iterations", ["--total-iters", 7], 7),
    ):
        assert train(tmp_path / name, *options, "--log-interval", 1).status == 0
        assert max(record["step"] for record in read_log(tmp_path / name)) == steps, name


def test_the_model_of_the_best_validation_is_kept(train, validation_losses, weights, tmp_path):
    seen = validation_losses(9, 7, 5, 6)
    assert train(tmp_path / "save").status == 0
    assert json.loads((tmp_path / "save" / "finished.json").read_text()) == {"step": 18, "kept_step": 12, "best": -5}
    assert torch.equal(weights(tmp_path / "save"), seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_only_save_last_keeps_the_last(train, validation_losses, weights, tmp_path):
    seen = validation_losses(9, 7, 5, 6)
    outcome = train(tmp_path / "save", "--only-save-last")
    assert json.loads((tmp_path / "save" / "finished.json").read_text())["kept_step"] == 18
    assert "warning" not in outcome.out
    assert torch.equal(weights(tmp_path / "save"), seen[3])


def test_a_score_as_good_as_the_start_does_not_beat_it_and_the_last_model_is_kept_with_a_warning(
    train, validation_losses, read_log, tmp_path
):
    validation_losses(5, 5, 6, 5)
    outcome = train(tmp_path / "save")
    assert json.loads((tmp_path / "save" / "finished.json").read_text())["kept_step"] == 18
    warning = "no validation beat the score before training; the last model is kept"
    assert warning in outcome.out and read_log(tmp_path / "save")[-1]["warning"] == warning
    assert (tmp_path / "save" / "model.safetensors").exists()


def test_with_generation_the_rouge_selects(train, read_log, tmp_path, monkeypatch):
    scores = iter([10.0, 30.0, 20.0, 25.0])
    metrics = {"exact_match": 0.0}
    monkeypatch.setattr(
        "distillm.training.validation.compute_metrics", lambda *texts: {"rougeL": next(scores), **metrics}
    )
    assert train(tmp_path / "save", "--eval-gen").status == 0
    assert json.loads((tmp_path / "save" / "finished.json").read_text())["kept_step"] == STEPS_PER_EPOCH
    validations = [record for record in read_log(tmp_path / "save") if "dev_loss" in record]
    assert [record["dev_rougeL"] for record in validations] == [10.0, 30.0, 20.0, 25.0]


def test_validation_alone_trains_and_saves_no_model(world, run, read_log, tmp_path):
    options = world.training(tmp_path / "save")
    options.remove("--do-train")
    assert run(finetune.main, options).status == 0
    assert [record["step"] for record in read_log(tmp_path / "save")] == [0]
    assert not (tmp_path / "save" / "model.safetensors").exists()


@pytest.mark.parametrize("type", ["lm", "adaptive-srkl-contra", "mixed-jsd-fdd"])
def test_a_dry_run_writes_nothing(type, train, tmp_path):
    pairs = ["--num-distill-layers", 3] if type.endswith("fdd") else []
    outcome = train(tmp_path / "save", "--dry-run", *pairs, type=type)
    assert outcome.status == 0
    assert outcome.out.startswith("dry run: ")
    assert not (tmp_path / "save").exists()


def test_a_dry_run_of_stage_1_takes_no_step_and_writes_nothing(train_field, monkeypatch, tmp_path):
    steps = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: steps.append(optimizer))
    outcome = train_field(tmp_path / "save", "--dry-run")
    assert outcome.status == 0 and not steps
    assert outcome.out.startswith("dry run: velocity_field_loss ")
    assert not (tmp_path / "save").exists()


def test_log_term_gradients_logs_a_norm_for_every_term(train, read_log, tmp_path):
    for name, options in (("with", ["--log-term-gradients"]), ("without", [])):
        extra = ["--kd-ratio", 0.5, "--total-iters", 4, *options]
        assert train(tmp_path / name, *extra, type="srkl-fdd-contra").status == 0
    lines = [record for record in read_log(tmp_path / "with") if "loss" in record]
    plain = [record for record in read_log(tmp_path / "without") if "loss" in record]
    terms = {"cross_entropy", "srkl", "fdd", "corpus", "contra"}
    assert terms <= lines[0].keys()
    for line, expected in zip(lines, plain, strict=True):
        norms = {name: line.pop(f"gradient_{name}") for name in terms}
        assert all(norm > 0 for norm in norms.values()), norms
        assert line == expected  # measuring changes nothing


def test_lora_saves_an_adapter_that_goes_on_training_and_is_evaluated(train, score, world, tmp_path):
    common = ["--model-type", "llama", "--peft", "lora", "--peft-lora-dropout", 0, "--total-iters", 4]
    first, second = tmp_path / "first", tmp_path / "second"
    outcome = train(first, *common, "--peft-lora-r", 3, "--peft-lora-alpha", 12, student=world.llama)
    assert outcome.status == 0
    assert (first / "adapter_model.safetensors").exists() and not (first / "model.safetensors").exists()
    outcome = train(second, *common, "--peft-path", first, student=world.llama)
    assert outcome.status == 0
    for folder in (first, second):
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert (settings["r"], settings["lora_alpha"]) == (3, 12)
    assert AutoTokenizer.from_pretrained(second).eos_token_id == 1
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    assert adapters[0].keys() == adapters[1].keys()
    assert not all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert score(tmp_path / "scores", "--model-path", world.llama, "--peft-path", second).status == 0
    # Named by its folder alone it is the same model.
    assert "nothing to do" in score(tmp_path / "scores", "--model-path", second).out


def test_below_an_adapter_in_fp32_the_frozen_weights_are_in_the_runs_precision(
    train, read_log, world, tmp_path, monkeypatch
):
    original, losses, dtypes = finetune.setup_models, [], []

    def setup_models(*arguments):
        models = original(*arguments)
        dtypes.append({(p.requires_grad, p.dtype) for p in models.student.model.parameters()})
        return models

    monkeypatch.setattr(finetune, "setup_models", setup_models)
    for precision in ("fp32", "bf16"):
        save = tmp_path / precision
        options = ["--model-type", "llama", "--peft", "lora", "--peft-lora-dropout", 0, "--total-iters", 2]
        assert train(save, *options, "--precision", precision, type="kd", student=world.llama).status == 0
        assert {tensor.dtype for tensor in load_file(save / "adapter_model.safetensors").values()} == {torch.float32}
        losses += [record["fkl"] for record in read_log(save) if "loss" in record]
    assert dtypes == [{(False, dtype), (True, torch.float32)} for dtype in (torch.float32, torch.bfloat16)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_another_seed_is_another_run(train, weights, tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        assert train(tmp_path / name, "--seed", seed, "--total-iters", 3).status == 0
    assert not torch.equal(weights(tmp_path / "one"), weights(tmp_path / "two"))


# ---- evaluation --------------------------------------------------------------------------------------------------


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
    outcome = score(tmp_path, "--data-names", *names, "--seeds", 10, 20, 30, 40, 50, "--eval-batch-size", 64)
    assert outcome.status == 0
    assert loads["models"] == 1
    assert loads["batches"] == [64, 64, 22]  # 5 sets of 6 rows, 5 seeds
    folders = {f"{name}-64/{seed}" for name in names for seed in (10, 20, 30, 40, 50)}
    assert {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("metrics.json")} == folders
    for folder in folders:
        files = {path.name for path in (tmp_path / folder).iterdir()}
        assert files == {"args.json", "answers.jsonl", "metrics.json", "log.txt"}


def test_the_metrics_agree_with_the_answers_beside_them(score, world, tmp_path):
    assert score(tmp_path).status == 0
    for name in ("dolly", "vicuna"):
        records = load_evaluation_set(world.data, name)
        for seed in (10, 20):
            folder = tmp_path / f"{name}-64" / str(seed)
            lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
            assert [line["prompt"] for line in lines] == [record["prompt"] for record in records]
            assert [line["references"] for line in lines] == [references(record) for record in records]
            metrics = json.loads((folder / "metrics.json").read_text())
            recomputed = compute_metrics([line["answer"] for line in lines], [line["references"] for line in lines])
            assert metrics == pytest.approx({**recomputed, "rows": len(records)})
            record = json.loads((folder / "args.json").read_text())
            assert (record["seed"], record["data_name"]) == (seed, name)


def test_answers_depend_on_set_and_seed(score, tmp_path):
    assert score(tmp_path).status == 0
    answers = {path.read_text() for path in tmp_path.rglob("answers.jsonl")}
    assert len(answers) == 4


def test_finished_pairs_of_set_and_seed_are_skipped(score, loads, tmp_path, contents):
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


def test_num_rows_limits_every_set(score, tmp_path):
    assert score(tmp_path, "--num-rows", 2).status == 0
    assert all(json.loads(path.read_text())["rows"] == 2 for path in tmp_path.rglob("metrics.json"))


def test_greedy_answers_are_the_same_for_every_seed(score, tmp_path):
    assert score(tmp_path, "--do-sample", "false").status == 0
    texts = [
        [json.loads(line)["answer"] for line in (tmp_path / "dolly-64" / seed / "answers.jsonl").open()]
        for seed in ("10", "20")
    ]
    assert texts[0] == texts[1]


def test_results_of_other_weights_or_options_are_evaluated_anew(score, world, tmp_path):
    model = shutil.copytree(world.student, tmp_path / "model")
    save = tmp_path / "results"
    assert score(save, "--model-path", model).status == 0
    shutil.copy(world.steady_student / "model.safetensors", model)  # the same weights: nothing is stale
    assert "nothing to do" in score(save, "--model-path", model).out
    other = load_file(world.student / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in other.items()}, model / "model.safetensors")
    assert score(save, "--model-path", model).out.count("evaluated anew") == 4
    assert score(save, "--model-path", model, "--temperature", 0.5).out.count("evaluated anew") == 4
    assert "nothing to do" in score(save, "--model-path", model, "--temperature", 0.5).out


def test_bug_results_of_an_adapter_stood_though_its_base_model_had_changed(train, score, world, tmp_path):
    base, adapter = shutil.copytree(world.llama, tmp_path / "base"), tmp_path / "adapter"
    lora = ["--model-type", "llama", "--peft", "lora", "--total-iters", 2]
    assert train(adapter, *lora, student=base).status == 0
    options = tmp_path / "results", "--model-path", adapter
    assert score(*options).status == 0
    assert "nothing to do" in score(*options).out
    exchange_weights(base)
    assert score(*options).out.count("evaluated anew") == 4


def test_bug_a_refresh_left_the_field_and_the_projector_as_they_were(train, world, tmp_path):
    """Its optimiser was made while both were frozen, and had no parameters."""
    save = tmp_path / "save"
    assert train(save, "--epochs", 2, type="srkl-contra").status == 0
    for name in ("velocity_field", "projector"):
        before, after = (load_file(folder / f"{name}.safetensors") for folder in (world.field, save))
        assert not [key for key in before if torch.equal(before[key], after[key])]


def test_a_refresh_in_bf16_is_outside_the_autocast_that_would_keep_stale_weights(train, read_log, tmp_path):
    options = ("--precision", "bf16", "--epochs", 2)
    assert train(tmp_path, *options, type="srkl-contra").status == 0
    assert any("velocity_field_loss" in record for record in read_log(tmp_path))
