"""The norm of each loss term's own gradient with respect to some parameters."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from distillm.distributed import World
from distillm.objective import Objective


class TermGradients:
    """Sums each term's weighted gradient over the micro-batches of a step, then over the ranks."""

    def __init__(self, objective: Objective, parameters: Iterable[nn.Parameter], world: World):
        self.objective, self.world = objective, world
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.gradients: list[Tensor] = []

    def add(self, term_values: Sequence[Tensor] | Tensor) -> None:
        """Differentiate every term of a micro-batch on its own; the graph is kept."""
        flat = [self._gradient(value) for value in term_values]
        self.gradients = [a + b for a, b in zip(self.gradients, flat, strict=True)] if self.gradients else flat

    def norms(self) -> dict[str, float]:
        """Return `gradient_<term>` for the step that was added, and start the next."""
        weighted = zip(self.objective.terms, self.gradients, strict=True)
        norms = {
            f"gradient_{term.name}": float(term.weight * self.world.sum(gradient).norm()) for term, gradient in weighted
        }
        self.gradients = []
        return norms

    def _gradient(self, value: Tensor) -> Tensor:
        if self.objective.student.sharded:  # no rank has a whole gradient
            return value.new_full((1,), torch.nan)
        gradients = torch.autograd.grad(value, self.parameters, retain_graph=True, allow_unused=True)
        pairs = zip(gradients, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
