import math

import pytest
import torch

from contra.velocity_field import TimeEmbedding, VelocityField
from data_utils.errors import UserError

HIDDEN, WIDTH, PAIRS, BLOCKS, TOKENS = 5, 8, 3, 2, 4


@pytest.fixture
def field():
    torch.manual_seed(0)
    return VelocityField(HIDDEN, WIDTH, PAIRS, BLOCKS).eval()


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(x, weight, bias):
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt() * weight + bias


def sinusoids(t, width):
    half = width // 2
    frequencies = [10000 ** (-i / (half - 1)) for i in range(half)]
    return torch.tensor(
        [math.sin(t * w) for w in frequencies] + [math.cos(t * w) for w in frequencies], dtype=torch.float64
    )


def reference(field, x, t, pair):
    """The velocity of one token, written out in float64 from the field's weights."""
    weights = {name: value.double() for name, value in field.state_dict().items()}

    def linear(name, value):
        return weights[f"{name}.weight"] @ value + weights[f"{name}.bias"]

    time = linear("time.layers.2", gelu(linear("time.layers.0", sinusoids(t, field.width))))
    state = linear("input", x.double()) + time + weights["pair.weight"][pair]
    for i in range(field.num_blocks):
        block = f"blocks.{i}.layers"
        normalized = layer_norm(state, weights[f"{block}.0.weight"], weights[f"{block}.0.bias"])
        state = state + linear(f"{block}.3", gelu(linear(f"{block}.1", normalized)))
    return linear("output", state)


def test_velocities_equal_a_float64_reference_token_by_token(field):
    x, t, pair = torch.randn(TOKENS, HIDDEN), torch.rand(TOKENS), torch.tensor([0, 2, 1, 2])
    expected = torch.stack([reference(field, x[i], t[i].item(), pair[i].item()) for i in range(TOKENS)])
    torch.testing.assert_close(field(x, t, pair).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [4, 6, 64, 1024])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_time_embedding_equals_a_float64_loop(width, t):
    embedding = TimeEmbedding(width)
    embedding.layers = torch.nn.Identity()
    torch.testing.assert_close(embedding(torch.tensor(t)).double(), sinusoids(t, width), rtol=1e-6, atol=1e-6)


def test_the_smallest_width_has_a_single_frequency():
    assert TimeEmbedding(2).frequencies.tolist() == [1.0]


def test_a_scalar_time_and_an_integer_pair_hold_for_every_token(field):
    x = torch.randn(TOKENS, HIDDEN)
    expected = field(x, torch.full((TOKENS,), 0.25), torch.full((TOKENS,), 1))
    torch.testing.assert_close(field(x, 0.25, 1), expected)
    torch.testing.assert_close(field(x, torch.tensor(0.25), torch.tensor(1)), expected)


def test_each_token_is_treated_alone(field):
    x, t, pair = torch.randn(TOKENS, HIDDEN), torch.rand(TOKENS), torch.tensor([0, 2, 1, 2])
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(field(x[order], t[order], pair[order]), field(x, t, pair)[order])
    torch.testing.assert_close(field(x[:1], t[:1], pair[:1]), field(x, t, pair)[:1])
    assert field(x[:0], t[:0], pair[:0]).shape == (0, HIDDEN)


def test_time_and_pair_change_the_velocity(field):
    x = torch.randn(TOKENS, HIDDEN)
    assert not torch.allclose(field(x, 0.0, 0), field(x, 1.0, 0))
    assert not torch.allclose(field(x, 0.0, 0), field(x, 0.0, 1))


def test_dropout_acts_in_training_and_never_in_eval(field):
    x = torch.randn(64, HIDDEN)
    torch.testing.assert_close(field(x, 0.5, 0), field(x, 0.5, 0), rtol=0, atol=0)
    field.train()
    assert not torch.equal(field(x, 0.5, 0), field(x, 0.5, 0))
    dropouts = [part.p for part in field.modules() if isinstance(part, torch.nn.Dropout)]
    assert dropouts == [0.1] * BLOCKS


def test_half_precision_states_give_velocities_in_the_precision_of_the_weights(field):
    x = torch.randn(TOKENS, HIDDEN).half()
    assert field(x, 0.0, 0).dtype == torch.float32
    torch.testing.assert_close(field(x, 0.0, 0), field(x.float(), 0.0, 0))


def test_every_parameter_learns(field):
    field(torch.randn(TOKENS, HIDDEN), torch.rand(TOKENS), torch.tensor([0, 1, 2, 0])).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in field.parameters())


@pytest.mark.parametrize("width", [7, 1, 0, -2])
def test_an_odd_or_empty_width_is_refused(width):
    with pytest.raises(UserError, match=f"--velocity-d-model.*{width}"):
        VelocityField(HIDDEN, width, PAIRS, BLOCKS)
