"""A causal LM as body and head: the head sees only the tokens that count, and only scheduled layers are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from data_utils.batching import TokenBatch
from data_utils.errors import UserError


@dataclass
class HiddenStates:
    """The result of one forward pass: final states for the head, and the scheduled layers' states."""

    last: Tensor  # [B, T, D], after the final norm
    scheduled: list[Tensor] = field(default_factory=list)  # one [B, T, D] for each scheduled layer


class SplitModel:
    """A causal LM, plain or with LoRA, as body and head.

    `layers` are the indices of `hidden_states` (0 = embeddings, n = output of block n) that `forward` captures.
    `sharded` is true if each rank holds a piece of every weight (DeepSpeed's ZeRO 3): a call then waits for all ranks.
    `packs` is true if several rows may lie in one line of a batch (`keeps_rows_apart`).
    """

    def __init__(self, model: nn.Module, layers: list[int] | None = None):
        self.model = model
        causal_lm: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
        self.config = causal_lm.config
        self.body: nn.Module = causal_lm.base_model
        self.head: nn.Module = causal_lm.get_output_embeddings()
        self.vocab_size: int = self.head.weight.shape[0]  # type: ignore[assignment,union-attr]
        self.blocks = find_blocks(self.body, self.config.num_hidden_layers)
        self.layers = layers or []
        self.sharded = False
        self.packs = False

    def forward(self, batch: TokenBatch) -> HiddenStates:
        """Run the body on a batch."""
        captured: dict[int, Tensor] = {}
        with self._capture(captured):
            output = self.body(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids if batch.packed else None,
                attention_mask=None if batch.packed else batch.attention_mask,
                use_cache=False,
            )
        return HiddenStates(output.last_hidden_state, [captured[layer] for layer in self.layers])

    @property
    def last_compared_block(self) -> nn.Module:
        """The block of the last scheduled layer, else the last one: the last one that every term's gradient reaches."""
        return self.blocks[self.layers[-1] - 1 if self.layers else -1]

    def cut_vocabulary(self, size: int) -> None:
        """Score the first `size` vocabulary entries only; the model itself stays whole."""
        whole = self.head
        assert isinstance(whole, nn.Linear) and size <= self.vocab_size
        head = nn.Linear(whole.in_features, size, bias=whole.bias is not None, device="meta")
        head.weight = nn.Parameter(whole.weight[:size], requires_grad=False)
        if whole.bias is not None:
            head.bias = nn.Parameter(whole.bias[:size], requires_grad=False)
        self.head, self.vocab_size = head, size

    @contextmanager
    def _capture(self, captured: dict[int, Tensor]) -> Iterator[None]:
        """Within the block, keep the outputs of the scheduled transformer blocks, and no others."""

        def keep(layer: int, module: nn.Module, inputs: Any, output: Any) -> None:
            captured[layer] = output[0] if isinstance(output, tuple) else output

        hooks = [self.blocks[layer - 1].register_forward_hook(partial(keep, layer)) for layer in self.layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def check_head(self, device: torch.device) -> None:
        """Raise if the model's logits are not head(body(x)), e.g. because it caps or scales its logits."""
        ids = torch.arange(4, device=device).unsqueeze(0)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        with eval_mode(self.model):
            whole = self.model(**inputs).logits
            parts = self.head(self.body(**inputs).last_hidden_state)
        if not torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3):
            raise UserError(
                f"{type(self.model).__name__} changes its logits after the LM head; "
                "only models with logits = head(body(x)) are supported"
            )

    @torch.no_grad()
    def keeps_rows_apart(self, device: torch.device) -> bool:
        """Say whether the body computes several rows in one line as it computes each of them alone."""
        if "position_ids" not in signature(self.body.forward).parameters:
            return False
        rows = [torch.arange(first, first + size, device=device) for first, size in ((0, 3), (2, 6), (1, 5))]
        positions = torch.cat([torch.arange(len(row), device=device) for row in rows]).unsqueeze(0)

        def states_of(*rows: Tensor, **positions: Tensor) -> Tensor:
            return self.body(input_ids=torch.cat(rows).unsqueeze(0), use_cache=False, **positions).last_hidden_state[0]

        with eval_mode(self.model):
            alone = torch.cat([states_of(row) for row in rows]).float()
            packed = states_of(*rows, position_ids=positions)
            beside_others = states_of(rows[0] + 7, *rows[1:], position_ids=positions)
        error = (packed.float() - alone).norm() / alone.norm()  # of rounding, in bf16 about 0.01
        return bool(error < 0.05) and torch.equal(packed[len(rows[0]) :], beside_others[len(rows[0]) :])


def find_blocks(body: nn.Module, num_layers: int) -> nn.ModuleList:
    """Return the list of transformer blocks: the one `ModuleList` of `num_layers` modules."""
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise UserError(f"{type(body).__name__} has no list of {num_layers} blocks; its layers cannot be scheduled")


def freeze(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode, without gradients."""
    return model.requires_grad_(False).eval()


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Within the block, keep modules in evaluation mode; afterwards restore the mode of each submodule."""
    training = [part for module in modules for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
