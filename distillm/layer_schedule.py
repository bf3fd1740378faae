"""Which hidden states of a model are compared."""

from data_utils.errors import UserError


def layer_schedule(num_layers: int, num_points: int) -> list[int]:
    """Return indices of equally spaced `hidden_states` (0 = embeddings, n = output of block n).

    They are the inner ones of `num_points + 2` points from 0 to `num_layers`, truncated to integers.
    """
    if num_points < 1:
        raise UserError(f"the number of layers to compare (--num-distill-layers) must be at least 1, not {num_points}")
    if num_layers <= num_points:
        raise UserError(
            f"{num_points} layers to compare (--num-distill-layers) need at least {num_points + 1} layers, "
            f"but the model has {num_layers}; choose at most {max(num_layers - 1, 0)}"
        )
    return [point * num_layers // (num_points + 1) for point in range(1, num_points + 1)]
