"""Python code in a model's folder never runs, whatever loads the model, and nobody is asked whether it may."""

import builtins
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import evaluate
import finetune
from data_utils.errors import UserError
from data_utils.instructions import EVALUATION_SETS
from distillm.models.adapters import add_lora
from distillm.models.checks import check_model_type
from distillm.models.loading import load_causal_lm, load_tokenizer
from tests.distillm.tiny import make_gpt2, make_llama
from tests.entry.tiny_world import write_lines
from tools import generate_responses, import_gguf, process_data_dolly, process_data_pretrain, prune_depth

NEVER = "Python code of its own, which is never run"


@pytest.fixture
def questions(monkeypatch):
    """Answer yes to every question; return the questions."""
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda text="": asked.append(text) or "yes")
    return asked


@pytest.fixture
def sprung(tmp_path):
    return tmp_path / "sprung"


def merge(path: Path, **values: object) -> None:
    """Set values in a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def add_code(folder: Path, sprung: Path, where: str) -> None:
    """Put a module into a model's folder, and ask for it there."""
    trap = f"import os\nos.makedirs({str(sprung)!r})\n"
    (folder / "evil.py").write_text(f"{trap}class Evil: pass\n")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"{trap}def generate(model): pass\n")
    if where == "tokenizer":
        auto_map = {"AutoTokenizer": ["evil.Evil", None]}
        merge(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map=auto_map)
        merge(folder / "config.json", model_type="its_own")
    elif where == "generation":
        merge(folder / "generation_config.json", custom_generate=str(folder))
    else:
        auto_map = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
        model_type = {"model_type": "its_own"} if where == "config" else {}
        merge(folder / "config.json", auto_map=auto_map, **model_type)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tokenizer):
    """A model without code, the raw data of all tools, and an adapter on another model."""
    root = tmp_path_factory.mktemp("plain")
    size = len(tokenizer)
    make_gpt2(8, 3, vocabulary=size).save_pretrained(root / "model")
    make_llama(8, 1, vocabulary=size).save_pretrained(root / "llama")
    for name in ("model", "llama"):
        tokenizer.save_pretrained(root / name)
    add_lora(make_llama(8, 1, vocabulary=size), 2, 4, 0.0).save_pretrained(root / "adapter")
    for path in ("raw/train.jsonl", "raw/dev.jsonl", f"raw/{EVALUATION_SETS['dolly'][0]}"):
        write_lines(root / path, [{"instruction": "Say red.", "output": "red"}])
    (root / "raw" / "data.txt").write_text("A line of text.\n" * 50)
    return root


def call(main: Callable[[], None], *words: object) -> Callable[[str, Path, Path], None]:
    """Return what calls a script on a model's folder; `MODEL`, `RAW` and `OUT` stand for places."""

    def run(model: str, raw: Path, out: Path) -> None:
        places = {"MODEL": model, "RAW": str(raw), "OUT": str(out / "out")}
        sys.argv = ["script.py", *(places.get(str(word), str(word)) for word in words)]
        main()

    return run


LENGTHS = ("--max-length", 32, "--max-prompt-length", 16)
PROCESS = ("--model-path", "MODEL", "--data-dir", "RAW", "--processed-data-dir", "OUT", "--data-process-workers", 1)
TRAIN = ("--model-type", "llama", "--data-dir", "RAW", "--save", "OUT", "--do-train", *LENGTHS)
LOADERS: dict[str, Callable[[str, Path, Path], object]] = {
    "load_causal_lm": lambda model, raw, out: load_causal_lm(model),
    "load_tokenizer": lambda model, raw, out: load_tokenizer(model),
    "check_model_type": lambda model, raw, out: check_model_type(model, "gpt2"),
    "finetune.py": call(finetune.main, "--model-path", "MODEL", *TRAIN),
    "finetune.py, LoRA": call(finetune.main, "--model-path", "MODEL", "--peft", "lora", *TRAIN),
    "evaluate.py": call(
        evaluate.main, "--model-path", "MODEL", "--data-dir", "RAW", "--data-names", "dolly", "--save", "OUT", *LENGTHS
    ),
    "process_data_dolly.py": call(process_data_dolly.main, *PROCESS, *LENGTHS),
    "process_data_pretrain.py": call(process_data_pretrain.main, *PROCESS, "--max-length", 8, "--dev-num", 1),
    "prune_depth.py": call(prune_depth.main, "--model-path", "MODEL", "--num-layers", 2, "--save", "OUT"),
    "generate_responses.py": call(
        *(generate_responses.main, "--model-path", "MODEL", "--data", "RAW/train.jsonl", "--output", "OUT/a.jsonl")
    ),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "where", ["config", "config of a known model", "tokenizer", "generation", "base of an adapter"]
)
def test_code_in_a_models_folder_never_runs(plain, tmp_path, questions, sprung, monkeypatch, where, loader):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RAW").symlink_to(plain / "raw")
    model = Path(shutil.copytree(plain / ("llama" if "adapter" in where else "model"), tmp_path / "model"))
    add_code(model, sprung, "config" if "adapter" in where else where)
    if "adapter" in where:
        adapter = Path(shutil.copytree(plain / "adapter", tmp_path / "adapter"))
        merge(adapter / "adapter_config.json", base_model_name_or_path=str(model))
        model = adapter
    try:
        LOADERS[loader](str(model), plain / "raw", tmp_path)
    except UserError as error:
        assert "\n" not in str(error)
        assert where in ("generation", "config of a known model") or str(tmp_path) in str(error)
        if where in ("config", "base of an adapter"):
            assert NEVER in str(error)
    assert not sprung.exists() and not questions


def test_a_prompt_tuning_adapter_loads_no_tokenizer(plain, tmp_path, questions, sprung):
    """PEFT would load the one that its configuration names, to get the ids of its initial text."""
    evil = Path(shutil.copytree(plain / "llama", tmp_path / "evil"))
    add_code(evil, sprung, "tokenizer")
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "prompt_tuning_init": "TEXT"}
    config |= {"prompt_tuning_init_text": "a", "num_virtual_tokens": 2, "tokenizer_name_or_path": str(evil)}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="only LORA is supported"):
        load_causal_lm(str(plain / "llama"), torch.float32, str(adapter), trainable_adapter=True)
    assert not sprung.exists() and not questions


def test_code_beside_a_gguf_file_never_runs(plain, tmp_path, questions, sprung):
    folder = Path(shutil.copytree(plain / "model", tmp_path / "model"))
    add_code(folder, sprung, "tokenizer")
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(UserError):
        import_gguf.load_gguf(folder / "model.gguf", torch.float32)
    assert not sprung.exists() and not questions
