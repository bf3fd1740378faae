"""The scripts of the LoRA families say what the published recipe says: the table, written down a second time."""

import pytest

from tests.scripts.commands import dry_run

# (file, batch size, accumulation, eval batch size, lr, epochs, type, save); {s} and {t} are the sizes.
DISTILLATIONS = [
    ("kd/kd_{s}_{t}_teacher_lora.sh", 16, 1, 32, 1e-5, 10, "kd", "kd/{s}_{t}"),
    ("kd/contra_{s}_{t}_teacher_lora.sh", 16, 1, 32, 5e-4, 10, "fkl-contra", "contra/kd/{s}_{t}"),
    ("distillm/train_{s}_{t}_teacher_lora.sh", 16, 1, 32, 5e-4, 10, "adaptive-srkl", "distillm/{s}_{t}"),
    ("distillm/contra_{s}_{t}_teacher_lora.sh", 16, 1, 32, 5e-4, 10, "adaptive-srkl-contra", "contra/distillm/{s}_{t}"),
    ("fdd/fdd_{s}_{t}_teacher_lora.sh", 16, 1, 32, 5e-4, 10, "rkl-fdd", "fdd/{s}_{t}"),
    ("fdd/contra_{s}_{t}_teacher_lora.sh", 16, 1, 32, 5e-4, 10, "rkl-contra-fdd", "contra/fdd/{s}_{t}"),
    ("distillm2/distillm2_{s}_{t}_lora.sh", 8, 2, 32, 5e-4, 10, "distillm2-v2", "distillm2/{s}_{t}"),
    ("distillm2/contra_{s}_{t}_lora.sh", 8, 2, 32, 5e-4, 10, "distillm2-v2-contra", "contra/distillm2/{s}_{t}"),
]
FINE_TUNINGS = [
    ("sft/sft_{t}_lora.sh", 16, 1, 20, 5e-4, 10, "lm", "sft/{family}-{t}"),
    ("sft/sft_{s}_lora.sh", 16, 1, 32, 5e-4, 10, "lm", "sft/{family}-{s}"),
    ("init/init_{s}_lora.sh", 16, 1, 20, 5e-4, 3, "lm", "init/{family}-{s}"),
]
FIELDS = [
    ("train_velocity_field.sh", 16, 1, 8, 5e-4, 3, None, "velocity_field"),
    ("distillm2/train_velocity_field_distillm2.sh", 16, 1, 8, 5e-4, 3, None, "velocity_field/distillm2"),
]
COLUMNS = ("batch-size", "gradient-accumulation-steps", "eval-batch-size", "lr", "epochs", "type")
FAMILIES = {
    "openllama2": ("3B", "7B", "openlm-research/open_llama_3b_v2", "openlm-research/open_llama_7b_v2", 2400),
    "llama2": ("7B", "13B", "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf", 3200),
}
# What differs from the table above.
DIFFERENCES = {
    ("openllama2", "distillm/train_3B_7B_teacher_lora.sh"): {"eval-batch-size": 20},
    ("llama2", "sft/sft_13B_lora.sh"): {"eval-batch-size": 32},
    ("llama2", "init/init_7B_lora.sh"): {"eval-batch-size": 32},
    ("llama2", "sft/sft_7B_lora.sh"): {"batch-size": 8, "eval-batch-size": 8, "seed": 20},
    ("llama2", "distillm/contra_7B_13B_teacher_lora.sh"): {"seed": 1031},
    ("llama2", "distillm2/distillm2_7B_13B_lora.sh"): {"seed": 31, "generate-sgo-interval": 4},
    ("llama2", "distillm2/contra_7B_13B_lora.sh"): {"seed": 31, "generate-sgo-interval": 4},
}
LORA = {"peft": "lora", "peft-lora-r": 16, "peft-lora-alpha": 64, "peft-lora-dropout": 0.1, "seed": 10}
CASES = [(family, row) for family in FAMILIES for row in (*FINE_TUNINGS, *DISTILLATIONS, *FIELDS)]


def value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


@pytest.mark.parametrize(("family", "row"), CASES, ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_training_script_has_the_values_of_the_recipe(family, row):
    small, large, student, teacher, width = FAMILIES[family]
    names = {"s": small, "t": large, "family": family}
    script, save = row[0].format(**names), row[-1].format(**names)
    (command,) = dry_run(f"scripts/{family}/{script}", ".", "2012", "1")
    train = f"./results/{family}/train"
    expected = LORA | {key: entry for key, entry in zip(COLUMNS, row[1:-1], strict=True) if entry is not None}
    expected |= {"model-path": student, "save": f"{train}/{save}"} | DIFFERENCES.get((family, script), {})
    if row in FINE_TUNINGS:
        expected["model-path"] = teacher if large in script else student
    else:
        expected |= {"teacher-model-path": teacher, "teacher-peft-path": f"{train}/sft/{family}-{large}"}
    fresh = row in FINE_TUNINGS or row[6] == "kd"
    if not fresh:
        expected["peft-path"] = f"{train}/init/{family}-{small}"
    if row in FIELDS:
        expected |= {"velocity-d-model": width, "velocity-n-layers": 4, "num-distill-layers": 6}
    else:
        expected["deepspeed_config"] = f"./configs/deepspeed/ds_config{'_zero2' if fresh else ''}.json"
    if "contra" in script:
        field = "velocity_field/distillm2" if "distillm2" in script else "velocity_field"
        expected |= {"velocity-field-path": f"{train}/{field}", "num-distill-layers": 6}
    if "distillm2" in script:
        expected["data-dir"] = f"./data/distillm2/{family}/formatted"
    assert {name: value(command.value(name)) for name in expected} == expected
    assert ("peft-path" in command.options) is not fresh
    assert "gradient-checkpointing" in command.options
    assert ("gradual-beta" in command.options) == ("distillm2-v2" in str(row[6]))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_answer_for_the_pairs(family):
    small, large, student, teacher, _ = FAMILIES[family]
    *answers, _ = dry_run(f"scripts/{family}/distillm2/generate_data.sh", ".")
    models = [(command.value("model-path"), command.value("peft-path")) for command in answers]
    train = f"./results/{family}/train"
    assert models == 2 * [
        (teacher, f"{train}/sft/{family}-{large}"),
        (student, f"{train}/init/{family}-{small}"),
    ]
