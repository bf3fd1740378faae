import torch

from contra.projector import Projector


def test_it_is_an_affine_map_of_the_layer_norm():
    torch.manual_seed(0)
    projector = Projector(5, 3).double()
    torch.nn.init.normal_(projector.norm.weight)
    torch.nn.init.normal_(projector.norm.bias)
    hidden = torch.randn(2, 4, 5, dtype=torch.float64)
    normalized = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normalized = normalized * projector.norm.weight + projector.norm.bias
    expected = torch.einsum("btd,ed->bte", normalized, projector.linear.weight) + projector.linear.bias
    torch.testing.assert_close(projector(hidden), expected)


def test_half_precision_states_are_projected_in_the_precision_of_the_weights():
    projector = Projector(5, 3)
    hidden = torch.randn(4, 5).half()
    assert projector(hidden).dtype == torch.float32
    torch.testing.assert_close(projector(hidden), projector(hidden.float()))
