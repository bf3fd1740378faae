import pytest
import torch
from torch import nn

from distillm import token_losses
from distillm.token_losses import sum_over_chunks

TOKENS, WIDTH = 23, 5


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 4 tokens, the last one of 3."""
    monkeypatch.setattr(token_losses, "CHUNK_ELEMENTS", 4 * WIDTH)


def test_chunks_cover_every_token_once(small_chunks):
    sizes = []

    def per_token(values: torch.Tensor) -> torch.Tensor:
        sizes.append(values.shape[-2])
        return values.sum((0, -1))

    values = torch.randn(2, TOKENS, WIDTH)
    assert sum_over_chunks(per_token, (values,), WIDTH).item() == pytest.approx(values.sum().item(), rel=1e-5)
    assert sizes == [4, 4, 4, 4, 4, 3]


def test_no_token_gives_zero_and_a_gradient_of_zero():
    empty = torch.zeros(0, WIDTH, requires_grad=True)
    total = sum_over_chunks(lambda values: values.sum(-1), (empty,), WIDTH)
    total.backward()
    assert total.item() == 0 and empty.grad.shape == (0, WIDTH)


def test_bug_dropout_inside_chunks_the_backward_pass_uses_the_masks_of_the_forward_pass(small_chunks):
    """The chunks were recomputed without their random state, so the velocity field's gradient used other masks."""
    linear, dropout = nn.Linear(WIDTH, WIDTH, bias=False), nn.Dropout(0.5)
    values = torch.randn(TOKENS, WIDTH, requires_grad=True)
    masks = []

    def per_token(values: torch.Tensor) -> torch.Tensor:
        dropped = dropout(linear(values))
        masks.append((dropped != 0).float() * 2)
        return dropped.sum(-1)

    torch.manual_seed(0)
    sum_over_chunks(per_token, (values,), WIDTH).backward()
    forward_masks = torch.cat(masks[:6])
    torch.testing.assert_close(values.grad, forward_masks @ linear.weight)
