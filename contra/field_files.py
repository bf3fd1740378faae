"""A trained velocity field and projector on disk: `{velocity_field,projector}.{json,safetensors}`."""

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.errors import Reading, UserError
from data_utils.files import atomic_file, write_json
from distillm.arguments import ContraArguments
from distillm.distributed import World
from distillm.run.identity import RECORD, STUDENT, TEACHER, note_other_models, other_models

VELOCITY_FIELD = "velocity_field"
PROJECTOR = "projector"
KINDS: dict[str, type] = {VELOCITY_FIELD: VelocityField, PROJECTOR: Projector}


def save_field(folder: str | Path, velocity_field: VelocityField, projector: Projector) -> None:
    """Write both into a folder; `velocity_field.json` comes last, so its presence marks a complete save."""
    projector_shape = {"student_size": projector.student_size, "teacher_size": projector.teacher_size}
    field_shape = {
        "hidden_size": velocity_field.hidden_size,
        "width": velocity_field.width,
        "num_pairs": velocity_field.num_pairs,
        "num_blocks": velocity_field.num_blocks,
        "dropout": velocity_field.dropout,
    }
    _save(Path(folder), PROJECTOR, projector, projector_shape)
    _save(Path(folder), VELOCITY_FIELD, velocity_field, field_shape)


def load_field(
    velocity_field_folder: str | Path,
    projector_folder: str | Path,
    student_size: int,
    teacher_size: int,
    num_pairs: int,
) -> tuple[VelocityField, Projector]:
    """Load both on the CPU and check that they fit the models' widths and the number of layer pairs."""
    field_shape = _load_shape(Path(velocity_field_folder), VELOCITY_FIELD)
    projector_shape = _load_shape(Path(projector_folder), PROJECTOR)
    _check(velocity_field_folder, field_shape, "hidden_size", teacher_size, "the teacher's hidden size")
    _check(velocity_field_folder, field_shape, "num_pairs", num_pairs, "the layer pairs of --num-distill-layers")
    _check(projector_folder, projector_shape, "student_size", student_size, "the student's hidden size")
    _check(projector_folder, projector_shape, "teacher_size", teacher_size, "the teacher's hidden size")
    velocity_field = _build(Path(velocity_field_folder), VELOCITY_FIELD, field_shape)
    projector = _build(Path(projector_folder), PROJECTOR, projector_shape)
    return velocity_field, projector


def check_field_models(contra: ContraArguments, header: Mapping[str, Any], world: World) -> None:
    """Raise if the field was trained for another teacher; another student may be intended and only causes a note."""
    for folder in filter(None, (contra.velocity_field_path, contra.projector_path)):
        other_teacher = other_models(Path(folder) / RECORD, header, TEACHER)
        if other_teacher:
            raise UserError(
                f"{folder} was trained with {other_teacher}; train the velocity field for this teacher, "
                f"or remove {Path(folder) / RECORD} if it is the same one"
            )
        note_other_models(Path(folder) / RECORD, header, STUDENT, world)


def _save(folder: Path, name: str, module: nn.Module, shape: dict[str, Any]) -> None:
    with atomic_file(folder / f"{name}.safetensors") as temporary:
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()},
            temporary,
        )
    write_json(folder / f"{name}.json", shape)


def _load_shape(folder: Path, name: str) -> dict[str, Any]:
    if folder.is_file():  # published code saves one: velocity_field.pth, projector.pth
        raise UserError(
            f"{folder} is a file; expected a folder written by train_velocity_field.py. "
            "A .pth file from published code cannot be read: train the velocity field here"
        )
    for path in (folder / f"{name}.json", folder / f"{name}.safetensors"):
        if not path.is_file():
            raise UserError(
                f"{path} is missing; train it with train_velocity_field.py or give the folder that holds it"
            )
    try:
        shape = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / name}.json is not JSON ({error}); train it again") from error
    if not isinstance(shape, dict) or not _describes(shape, KINDS[name]):
        raise UserError(f"{folder / name}.json does not describe a {name}; train it again")
    return shape


def _describes(shape: dict[str, Any], kind: type) -> bool:
    """Say whether these are arguments of a module: sizes, and a dropout."""
    dropout = shape.get("dropout", 0.0)
    sizes = [value for key, value in shape.items() if key != "dropout"]
    return (
        shape.keys() == signature(kind).parameters.keys()
        and all(type(size) is int and size > 0 for size in sizes)
        and isinstance(dropout, float)
        and 0 <= dropout <= 1
    )


def _check(folder: str | Path, shape: dict[str, Any], key: str, expected: int, meaning: str) -> None:
    if shape.get(key) != expected:
        raise UserError(
            f"{folder} was trained with {key} {shape.get(key)}, but {meaning} is {expected}; "
            "train the velocity field for these models"
        )


def _build(folder: Path, name: str, shape: dict[str, Any]) -> Any:
    file = folder / f"{name}.safetensors"
    advice = f"; {name}.safetensors does not fit {name}.json: train it again"
    with Reading(str(file), advice):
        tensors = load_file(file)
        fits = _fits(tensors, KINDS[name], shape)
    if not fits:
        raise UserError(f"cannot load {file}: it holds other weights{advice}")
    module = KINDS[name](**shape)
    module.load_state_dict(tensors)
    return module


def _fits(tensors: dict[str, Tensor], kind: type, shape: dict[str, Any]) -> bool:
    """Say whether these are the weights of a module of this shape, without building one: it could have any size."""
    if shape.get("num_blocks", 1) > len(tensors):
        return False
    with torch.device("meta"):
        expected = kind(**shape).state_dict()
    return {name: tensor.shape for name, tensor in expected.items()} == {n: t.shape for n, t in tensors.items()}
