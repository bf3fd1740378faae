"""Stage 1 and refresh: the loop that trains velocity field and projector on frozen models (docs/methods.md)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from contra.field_files import load_weights, save_field
from contra.flow_matching import flow_matching_per_token
from contra.projector import Projector
from contra.velocity_field import VelocityField
from data_utils.batching import TokenBatch
from data_utils.errors import UserError
from data_utils.files import write_json
from data_utils.randomness import keyed_seed, keyed_uniforms
from distillm.arguments import TrainingArguments
from distillm.distributed import World
from distillm.interruption import Interrupted, request
from distillm.models.precision import autocast
from distillm.models.split_model import SplitModel, eval_mode, freeze
from distillm.objective import Progress
from distillm.progress_bar import progress_bar
from distillm.reduction import gather_layers
from distillm.token_losses import sum_over_chunks
from distillm.training.batches import StepBatches
from distillm.training.engine import load_optimizer, make_optimizer, save_optimizer, set_learning_rate
from distillm.training.schedule import learning_rate


@dataclass(frozen=True)
class FieldSettings:
    """Optimisation of the field; `total_steps` spans all the refreshes of a run, or stage 1."""

    total_steps: int
    lr: float
    lr_min: float
    lr_decay_style: str
    warmup_iters: int
    weight_decay: float
    precision: str
    seed: int

    @classmethod
    def of_run(cls, training: TrainingArguments, total_steps: int, precision: str) -> "FieldSettings":
        """Return the run's own optimisation, over `total_steps`."""
        return cls(
            total_steps,
            training.lr,
            training.lr_min,
            training.lr_decay_style,
            training.warmup_iters,
            training.weight_decay,
            precision,
            training.seed,
        )


class FieldTrainer:
    """Trains field and projector with one AdamW that lives as long as the run."""

    def __init__(
        self,
        velocity_field: VelocityField,
        projector: Projector,
        student: SplitModel,
        teacher: SplitModel,
        settings: FieldSettings,
        world: World,
    ):
        self.velocity_field, self.projector = velocity_field, projector
        self.student, self.teacher, self.settings, self.world = student, teacher, settings, world
        self.learner = torch.nn.ModuleList([velocity_field, projector]).requires_grad_(True)
        self.optimizer = make_optimizer(self.learner, settings.weight_decay)  # takes what has gradients now
        self.parameters = list(self.learner.parameters())
        freeze(self.learner)
        self.step = 0  # finished steps, over all refreshes

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within the block, field and projector are trainable and the models in eval mode; outside, both are frozen."""
        # An outer autocast would keep its first low-precision copy of the weights while the optimiser moves them.
        assert not torch.is_autocast_enabled(self.world.device.type)
        self.learner.requires_grad_(True).train()
        try:
            with eval_mode(self.student.model, self.teacher.model):
                yield
        finally:
            freeze(self.learner)

    def train_step(self, batches: StepBatches) -> Tensor:
        """Take the next step, inside `learning`; return its L_VF."""
        settings, micro_batches = self.settings, batches.split(batches.rows(self.step))
        loss = torch.zeros((), device=self.world.device)
        for share in self._shares(micro_batches):
            share.backward()
            loss += share.detach()
        loss = self.world.sum(loss)
        self.world.sum_gradients(self.parameters)
        self._require_finite(loss, micro_batches)
        rate = learning_rate(
            self.step,
            settings.total_steps,
            settings.lr,
            settings.lr_min,
            settings.warmup_iters,
            settings.lr_decay_style,
        )
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss

    @torch.no_grad()
    def dry_run(self, batches: StepBatches) -> Tensor:
        """Return L_VF of the next step, which is not taken."""
        micro_batches = batches.split(batches.rows(self.step))
        loss = self.world.sum(torch.stack(list(self._shares(micro_batches))).sum())
        self._require_finite(loss, micro_batches)
        return loss

    def save(self, folder: Path) -> None:
        """Write field, projector and optimiser into a folder that exists."""
        save_field(folder, self.velocity_field, self.projector)
        save_optimizer(self.optimizer, folder)

    def load(self, folder: Path, step: int) -> None:
        """Read what `save` wrote after `step` steps."""
        load_weights(folder, self.velocity_field, self.projector)
        load_optimizer(self.optimizer, folder)
        self.step = step

    def _shares(self, micro_batches: list[TokenBatch]) -> Iterator[Tensor]:
        """Yield what each micro-batch adds to the loss of the next step."""
        torch.manual_seed(keyed_seed(self.settings.seed, "velocity field dropout", self.step, self.world.rank))
        count = torch.stack([batch.attention_mask.sum() for batch in micro_batches]).sum().float()
        count, asked = self.world.sum(torch.cat([count.reshape(1), request(count)]))
        if asked > 0:
            raise Interrupted
        for batch in micro_batches:
            with autocast(self.settings.precision, self.world.device):
                share = self._sum(batch) / count
            yield share

    def _require_finite(self, loss: Tensor, micro_batches: list[TokenBatch]) -> None:
        """Raise before a step that would spoil the weights; loss and gradients are those of all ranks."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(loss + norm):
            rows = [row for batch in micro_batches for row in batch.row_ids.tolist()]
            raise UserError(
                f"step {self.step + 1} of the velocity field was not taken: its loss is {float(loss):g}, the norm of "
                f"its gradient {float(norm):g} (rows {rows}, on rank {self.world.rank}); "
                "the last checkpoint is intact: lower --lr, or look at these rows"
            )

    def _sum(self, batch: TokenBatch) -> Tensor:
        """Return the sum of the squared velocity errors over the tokens of a micro-batch."""
        positions = batch.token_positions
        with torch.no_grad():
            student_states = gather_layers(self.student.forward(batch).scheduled, positions)
            teacher_states = gather_layers(self.teacher.forward(batch).scheduled, positions)
        uniforms = keyed_uniforms(self.settings.seed, "flow time", self.step, batch.row_ids.tolist(), 1)
        row_times = torch.from_numpy(uniforms).float().to(positions.device)
        times = row_times.squeeze(1)[positions // batch.input_ids.shape[1]]
        width = student_states.shape[0] * 4 * self.velocity_field.width

        def per_token(student_states: Tensor, teacher_states: Tensor, times: Tensor) -> Tensor:
            return flow_matching_per_token(
                self.velocity_field, self.projector, student_states, teacher_states, times.squeeze(-1)
            )

        return sum_over_chunks(per_token, (student_states, teacher_states, times.unsqueeze(-1)), width)


class FieldRefresh:
    """After every `interval` epochs except the last, adapt the field to the student as it is now."""

    def __init__(self, trainer: FieldTrainer, batches: StepBatches, epochs: int, interval: int):
        self.trainer, self.batches, self.epochs, self.interval = trainer, batches, epochs, interval
        self.losses: list[Tensor] = []  # of a refresh that has begun

    @staticmethod
    def total_steps(epochs: int, interval: int, velocity_epochs: int, steps_per_epoch: int) -> int:
        """Return the steps of all refreshes of a run of `epochs` epochs."""
        return max(0, epochs - 1) // interval * velocity_epochs * steps_per_epoch

    def __call__(self, done: Progress) -> dict[str, float]:
        if done.epoch == done.epochs or done.epoch % self.interval:
            return {}
        steps = self.epochs * self.batches.steps_per_epoch
        initial, rank = len(self.losses), self.trainer.world.rank
        with (
            self.trainer.learning(),
            progress_bar(range(initial, steps), total=steps, initial=initial, desc="velocity field", rank=rank) as bar,
        ):
            for _ in bar:
                self.losses.append(self.trainer.train_step(self.batches).cpu())
        losses, self.losses = self.losses, []
        return {"velocity_field_loss": float(torch.stack(losses).mean())}

    def export(self, folder: Path) -> None:
        """Write the refreshed field and projector beside the model."""
        save_field(folder, self.trainer.velocity_field, self.trainer.projector)

    def save(self, folder: Path) -> None:
        (folder / "velocity_field").mkdir()
        self.trainer.save(folder / "velocity_field")
        state = {"step": self.trainer.step, "losses": [float(loss) for loss in self.losses]}
        write_json(folder / "velocity_field" / "refresh.json", state)

    def load(self, folder: Path) -> None:
        state = json.loads((folder / "velocity_field" / "refresh.json").read_text(encoding="utf-8"))
        self.trainer.load(folder / "velocity_field", state["step"])
        self.losses = [torch.tensor(loss) for loss in state["losses"]]
