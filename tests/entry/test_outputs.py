"""What a training run leaves behind, and which of its models it keeps."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import finetune
from distillm.run.loggers import SPEED
from tests.entry.every_method import FIELDS, command_of
from tests.entry.outputs import contents, read_log, steps_with
from tests.entry.processes import call
from tests.entry.tiny_world import STEPS_PER_EPOCH


def weights(folder):
    """Return the embeddings of a saved model: different ones for different models."""
    return AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.detach()


def finished(save):
    return json.loads((save / "finished.json").read_text())


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """The save folder of a run with CONTRA and on-policy rows."""
    save = tmp_path_factory.mktemp("trained") / "save"
    assert call(finetune.main, world.training(save, type="adaptive-srkl-contra")) == 0
    return save


def test_the_save_folder_is_a_model_that_loads_and_generates(trained, world):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(trained), AutoTokenizer.from_pretrained(trained)
    prompt = tokenizer("Say red.", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=5, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    assert answer.shape[1] > prompt["input_ids"].shape[1]
    assert model.dtype == torch.float32
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(world.student).get_vocab()


def test_a_run_leaves_its_records_and_nothing_of_its_training_state(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "model.safetensors", "args.json", "log.jsonl", "training.log", "finished.json"} <= names
    assert {f"{name}.{end}" for name in ("velocity_field", "projector") for end in ("json", "safetensors")} <= names
    assert not [path for path in trained.iterdir() if path.is_dir() or path.name.startswith(".")]
    record = json.loads((trained / "args.json").read_text())
    assert record["arguments"]["type"] == "adaptive-srkl-contra"
    assert record["arguments"]["skew_alpha"] == 0.1
    assert (record["seed"], record["global_batch_size"]) == (10, 4)
    assert record["command"][0] == "finetune.py"
    models = {"model_path", "teacher_model_path", "velocity_field_path"}
    assert record["inputs"].keys() == models | {"data_dir", "lm_data_dir"}
    assert {"train_0.bin", "train_0.idx", "valid.jsonl"} <= record["inputs"]["data_dir"].keys()
    assert all({"config.json", "velocity_field.json"} & record["inputs"][name].keys() for name in models)
    assert {"torch", "transformers"} <= record["versions"].keys()


def test_the_log_has_every_step_and_every_validation(trained):
    log = read_log(trained)
    training = [record for record in log if "loss" in record]
    assert [record["step"] for record in training] == list(range(2, 19, 2))
    assert {"epoch", "srkl", "corpus", "contra", "gradient_norm", "lr", "threshold"} <= training[0].keys()
    assert steps_with(log, "dev_loss") == [0, 6, 12, 18]
    text = (trained / "training.log").read_text()
    assert "\nstarted\n" in text and "step 18 | epoch 3 | loss " in text


def test_every_log_line_of_training_tells_its_speed_and_log_jsonl_does_not_so_that_equal_runs_are_equal(trained):
    lines = [line for line in (trained / "training.log").read_text().splitlines() if "| loss " in line]
    assert len(lines) == 9
    for line in lines:
        numbers = dict(part.rsplit(" ", 1) for part in line.split(" | "))
        seconds, tokens = float(numbers["seconds_per_step"]), float(numbers["tokens_per_second"])
        assert seconds > 0 and 4 * 20 < seconds * tokens < 4 * 200  # rows and chunks of the corpus
    assert not any(name in record for record in read_log(trained) for name in SPEED)


@pytest.mark.parametrize("name", ["lm", *FIELDS[:1]])
def test_a_second_identical_command_says_that_there_is_nothing_to_do(name, world, pairs, run, tmp_path):
    command = command_of(world, pairs, name, tmp_path / "save", "--total-iters", 1)
    assert run(*command).status == 0
    before = contents(tmp_path)
    again = run(*command)
    assert (again.status, again.err) == (0, "")
    assert again.out.endswith("nothing to do (to start again, pass --resume never)\n")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--batch-size", 4, "--gradient-accumulation-steps", 2], 3),
        (["--batch-size", 40], 1),
        (["--train-num", 9], 2),
        (["--total-iters", 7], 7),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_an_epoch_has_as_many_steps_as_whole_batches_and_at_least_one(options, steps, train, tmp_path):
    assert train(tmp_path / "save", "--epochs", 1, *options, "--log-interval", 1).status == 0
    assert max(record["step"] for record in read_log(tmp_path / "save")) == steps


# ---- which model is kept -----------------------------------------------------------------------------------------

NONE_BETTER = "no validation beat the score before training; the last model is kept"


@pytest.mark.parametrize(
    ("losses", "options", "kept", "warning"),
    [
        ([9, 7, 5, 6], [], 2, None),
        ([9, 7, 5, 6], ["--only-save-last"], 3, None),
        ([5, 5, 6, 5], [], 3, NONE_BETTER),  # as good as the start is not better
    ],
    ids=["the best", "--only-save-last", "none better than the start"],
)
def test_the_model_of_the_best_validation_is_kept(losses, options, kept, warning, train, validation_losses, tmp_path):
    seen = validation_losses(*losses)
    outcome = train(tmp_path / "save", *options)
    assert finished(tmp_path / "save")["kept_step"] == kept * STEPS_PER_EPOCH
    assert (NONE_BETTER in outcome.out, read_log(tmp_path / "save")[-1].get("warning")) == (bool(warning), warning)
    assert [torch.equal(weights(tmp_path / "save"), then) for then in seen[2:]] == [kept == 2, kept == 3]


def test_with_generation_the_rouge_selects(train, tmp_path, monkeypatch):
    scores = [10.0, 30.0, 20.0, 25.0]
    remaining = iter(scores)
    monkeypatch.setattr(
        "distillm.training.validation.compute_metrics", lambda *_: {"rougeL": next(remaining), "exact_match": 0.0}
    )
    assert train(tmp_path / "save", "--eval-gen").status == 0
    assert finished(tmp_path / "save") == {"step": 18, "kept_step": STEPS_PER_EPOCH, "best": 30.0}
    assert [record["dev_rougeL"] for record in read_log(tmp_path / "save") if "dev_loss" in record] == scores


# ---- runs that train nothing ---------------------------------------------------------------------------------------


def test_validation_alone_trains_and_saves_no_model(train, tmp_path):
    assert train(tmp_path / "save", "--do-train", "false").status == 0
    assert [record["step"] for record in read_log(tmp_path / "save")] == [0]
    assert not (tmp_path / "save" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["lm", "adaptive-srkl-contra", "mixed-jsd", "srkl-fdd", FIELDS[0]])
def test_a_dry_run_takes_no_step_and_writes_nothing(name, world, pairs, run, monkeypatch, tmp_path):
    steps = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: steps.append(optimizer))
    outcome = run(*command_of(world, pairs, name, tmp_path / "save", "--dry-run"))
    assert outcome.status == 0 and not steps
    assert outcome.out.startswith("dry run: velocity_field" if name == FIELDS[0] else "dry run: ")
    assert not (tmp_path / "save").exists()


# ---- terms, adapters, fields ---------------------------------------------------------------------------------------


def test_log_term_gradients_logs_a_norm_for_every_term(train, tmp_path):
    for name, options in (("with", ["--log-term-gradients"]), ("without", [])):
        extra = ["--kd-ratio", 0.6, "--total-iters", 4, *options]
        assert train(tmp_path / name, *extra, type="srkl-fdd-contra").status == 0
    lines, plain = ([line for line in read_log(tmp_path / name) if "loss" in line] for name in ("with", "without"))
    distilled = "srkl", "fdd", "contra"
    for line, expected in zip(lines, plain, strict=True):
        norms = {name: line.pop(f"gradient_{name}") for name in ("cross_entropy", "corpus", *distilled)}
        assert all(norm > 0 for norm in norms.values()), norms
        assert line == expected, "measuring changes nothing"
        loss = 0.4 * line["cross_entropy"] + 0.6 * sum(line[name] for name in distilled) + line["corpus"]
        assert line["loss"] == pytest.approx(loss)


def test_lora_saves_an_adapter_that_goes_on_training_and_is_evaluated(train, score, world, tmp_path):
    common = ["--model-type", "llama", "--peft", "lora", "--peft-lora-dropout", 0, "--total-iters", 4]
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(first, *common, "--peft-lora-r", 3, "--peft-lora-alpha", 12, student=world.llama).status == 0
    assert (first / "adapter_model.safetensors").exists() and not (first / "model.safetensors").exists()
    assert train(second, *common, "--peft-path", first, student=world.llama).status == 0
    for folder in (first, second):
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert (settings["r"], settings["lora_alpha"]) == (3, 12)
    assert AutoTokenizer.from_pretrained(second).eos_token_id == 1
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in (first, second)]
    assert adapters[0].keys() == adapters[1].keys()
    assert not all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert score(tmp_path / "scores", "--model-path", world.llama, "--peft-path", second).status == 0
    # Named only by its folder, it is the same model.
    assert "nothing to do" in score(tmp_path / "scores", "--model-path", second).out


def test_below_an_adapter_in_fp32_the_frozen_weights_are_in_the_runs_precision(train, world, tmp_path, monkeypatch):
    original, losses, dtypes = finetune.load_models, [], []

    def load_models(*arguments):
        models = original(*arguments)
        dtypes.append({(p.requires_grad, p.dtype) for p in models.student.model.parameters()})
        return models

    monkeypatch.setattr(finetune, "load_models", load_models)
    for precision in ("fp32", "bf16"):
        save = tmp_path / precision
        options = ["--model-type", "llama", "--peft", "lora", "--peft-lora-dropout", 0, "--total-iters", 2]
        assert train(save, *options, "--precision", precision, type="kd", student=world.llama).status == 0
        assert {tensor.dtype for tensor in load_file(save / "adapter_model.safetensors").values()} == {torch.float32}
        losses += [record["fkl"] for record in read_log(save) if "loss" in record]
    assert dtypes == [{(False, dtype), (True, torch.float32)} for dtype in (torch.float32, torch.bfloat16)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # an outer autocast would keep stale weights
def test_bug_a_refresh_left_the_field_and_the_projector_as_they_were(precision, train, world, tmp_path):
    """The optimiser was created while both were frozen, so it had no parameters."""
    save = tmp_path / "save"
    assert train(save, "--epochs", 2, "--precision", precision, type="srkl-contra").status == 0
    for name in ("velocity_field", "projector"):
        before, after = (load_file(folder / f"{name}.safetensors") for folder in (world.field, save))
        assert not [key for key in before if torch.equal(before[key], after[key])]
