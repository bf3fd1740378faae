"""The velocity field v(x, t, j): how a token at x moves at time t on its way from student to teacher."""

import torch
from torch import Tensor, nn

from contra.precision import never_fp16
from data_utils.errors import UserError

LONGEST_PERIOD = 10000.0


class VelocityField(nn.Module):
    """A residual MLP applied to each token, in the precision of its weights (fp32)."""

    def __init__(self, hidden_size: int, width: int, num_pairs: int, num_blocks: int, dropout: float = 0.1):
        """hidden_size: the teacher's D_t; width: d, even; num_pairs: L; dropout: at the end of a block."""
        super().__init__()
        self.hidden_size = hidden_size
        self.width = width
        self.num_pairs = num_pairs
        self.num_blocks = num_blocks
        self.dropout = dropout
        self.time = TimeEmbedding(width)  # first, because it refuses an odd width
        self.input = nn.Linear(hidden_size, width)
        self.pair = nn.Embedding(num_pairs, width)
        self.blocks = nn.Sequential(*(Block(width, dropout) for _ in range(num_blocks)))
        self.output = nn.Linear(width, hidden_size)

    @never_fp16
    def forward(self, x: Tensor, t: Tensor | float, pair: Tensor | int) -> Tensor:
        """x `[T, D_t]`, t `[T]` or scalar in [0, 1], pair `[T]` or int in 0..L-1 -> velocity `[T, D_t]`."""
        weight = self.input.weight
        t = torch.as_tensor(t, dtype=weight.dtype, device=x.device)
        pair = torch.as_tensor(pair, dtype=torch.long, device=x.device)
        state = self.input(x.to(weight.dtype)) + self.time(t) + self.pair(pair)
        return self.output(self.blocks(state)).to(weight.dtype)  # autocast may have made it bf16


class TimeEmbedding(nn.Module):
    """Linear(GELU(Linear([sin(t ω), cos(t ω)]))): t `[...]` -> `[..., d]`."""

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        if width < 2 or width % 2:
            raise UserError(f"the velocity field's width (--velocity-d-model) must be even and positive, not {width}")
        half = width // 2
        exponents = torch.arange(half, dtype=torch.float64) / max(half - 1, 1)
        self.register_buffer("frequencies", (LONGEST_PERIOD**-exponents).float(), persistent=False)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, t: Tensor) -> Tensor:
        angles = t.unsqueeze(-1) * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=-1))


class Block(nn.Module):
    """x + Dropout(Linear(GELU(Linear(LayerNorm(x)))))."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def pair_indices(num_pairs: int, num_tokens: int, device: torch.device) -> Tensor:
    """Return the pair index of every row of `[L, M, D]` flattened to `[L·M, D]`: `[L·M]`."""
    return torch.arange(num_pairs, device=device).repeat_interleave(num_tokens)
