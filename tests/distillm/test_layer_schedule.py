import pytest

from data_utils.errors import UserError
from distillm.layer_schedule import layer_schedule


@pytest.mark.parametrize(
    ("num_layers", "indices"),
    [
        (48, [6, 13, 20, 27, 34, 41]),
        (12, [1, 3, 5, 6, 8, 10]),
        (32, [4, 9, 13, 18, 22, 27]),
        (26, [3, 7, 11, 14, 18, 22]),
        (40, [5, 11, 17, 22, 28, 34]),
        (7, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_six_points_of_the_published_models(num_layers, indices):
    assert layer_schedule(num_layers, 6) == indices


def test_every_schedule_lies_strictly_inside_and_never_repeats():
    for num_layers in range(2, 100):
        for num_points in range(1, num_layers):
            indices = layer_schedule(num_layers, num_points)
            assert len(indices) == num_points
            assert indices == sorted(set(indices))
            assert 0 < indices[0] <= indices[-1] < num_layers


@pytest.mark.parametrize(("num_layers", "num_points"), [(6, 6), (1, 1), (3, 40), (0, 1)])
def test_more_points_than_a_model_allows_is_an_error_that_names_both(num_layers, num_points):
    with pytest.raises(UserError, match=rf"{num_points} layers.*at least {num_points + 1}.*has {num_layers}"):
        layer_schedule(num_layers, num_points)


@pytest.mark.parametrize("num_points", [0, -1])
def test_fewer_than_one_point_is_an_error(num_points):
    with pytest.raises(UserError, match="at least 1"):
        layer_schedule(12, num_points)
