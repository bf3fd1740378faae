"""Guarantees of data_utils/batching.py."""

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.batching import ATTENTION, LINE, Row, ShuffledOrder, collate, pack, split_step

PAD = 0
token_ids = st.integers(1, 99)
row_lists = st.lists(
    st.builds(Row, st.lists(token_ids, max_size=12), st.lists(token_ids, min_size=1, max_size=20), st.integers(0, 999)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(rows=row_lists, packed=st.booleans(), multiple=st.sampled_from([1, 8]))
def test_a_batch_holds_the_ids_of_each_row_and_their_successors_as_labels(rows, packed, multiple):
    batch = collate(rows, PAD, packed=packed, multiple=multiple)
    found = zip(
        batch.input_ids.flatten()[batch.token_positions].split(batch.token_counts.tolist()),
        batch.position_ids.flatten()[batch.token_positions].split(batch.token_counts.tolist()),
        batch.input_ids.flatten()[batch.response_positions].split(batch.response_counts.tolist()),
        batch.labels.split(batch.response_counts.tolist()),
        strict=True,
    )
    for row, (tokens, positions, read, predicted) in zip(rows, found, strict=True):
        ids, first = row.prompt + row.response, max(1, len(row.prompt))  # nothing predicts a row's first token
        assert tokens.tolist() == ids[:-1]
        assert positions.tolist() == list(range(len(ids) - 1))
        assert (read.tolist(), predicted.tolist()) == (ids[first - 1 : -1], ids[first:])
    assert batch.row_ids.tolist() == [row.row_id for row in rows]
    padding = torch.ones(batch.input_ids.numel(), dtype=torch.bool).index_fill(0, batch.token_positions, False)
    if not packed:
        assert (batch.input_ids.flatten()[padding] == PAD).all()


@settings(max_examples=60, deadline=None)
@given(rows=row_lists)
def test_an_unpacked_batch_is_as_wide_as_its_longest_row_rounded_up_to_8_and_masks_the_rest(rows):
    batch = collate(rows, PAD, packed=False)
    sizes = [len(row) - 1 for row in rows]
    assert batch.input_ids.shape == (len(rows), max(1, -(-max(sizes) // 8)) * 8)
    assert batch.attention_mask.tolist() == [[int(t < size) for t in range(batch.input_ids.shape[1])] for size in sizes]


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 600), min_size=1, max_size=40))
def test_packing_puts_each_row_into_one_line_and_costs_at_most_what_padding_costs(sizes):
    lines = pack(sizes)
    assert sorted(chain(*lines)) == list(range(len(sizes)))
    fullest = max(sum(sizes[index] for index in rows) for rows in lines)
    assert fullest < LINE + max(sizes)

    def cost(num_lines, length):
        return num_lines * length * (1 + length / ATTENTION)

    assert cost(len(lines), fullest) <= cost(len(sizes), max(sizes))


def test_short_rows_share_lines_and_rows_of_one_length_keep_their_own_where_that_costs_less():
    assert pack([300, 60, 50, 40, 30]) == [[0, 1, 2, 3, 4]]
    assert pack([300, 280, 20, 10]) == [[0, 3], [1, 2]]
    assert pack([500] * 4) == [[0], [1], [2], [3]]


def test_a_packed_line_by_hand():
    batch = collate([Row([5, 6], [7, 8, 9], 4), Row([5], [2], 1)], pad_id=9, multiple=1)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 5]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0]]
    assert (batch.response_positions.tolist(), batch.labels.tolist()) == ([1, 2, 3, 4], [7, 8, 9, 2])
    assert (batch.token_counts.tolist(), batch.response_counts.tolist()) == ([4, 1], [3, 1])
    assert batch.row_ids.tolist() == [4, 1]


def test_positions_restart_where_a_line_has_padding():
    batch = collate([Row([5], [6, 7], 0)], pad_id=9)
    assert batch.position_ids.tolist() == [[0, 1, 0, 1, 2, 3, 4, 5]]


def test_a_packed_batch_has_no_attention_mask_since_it_would_mix_its_rows():
    with pytest.raises(AssertionError):
        _ = collate([Row([1], [2], 0)], PAD).attention_mask


def test_a_batch_is_of_integers_and_all_that_models_and_losses_read_moves_with_it():
    batch = collate([Row([1], [2, 3], 0)], PAD).to(torch.device("meta"))
    for name, tensor in vars(batch).items():
        if name != "packed":
            assert tensor.dtype == torch.int64
            assert tensor.device.type == ("cpu" if name.endswith("_counts") or name == "row_ids" else "meta")


@settings(max_examples=60, deadline=None)
@given(num_rows=st.integers(1, 50), rows_per_step=st.integers(1, 20), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_visits_rows_at_most_once_and_drops_only_an_incomplete_step(num_rows, rows_per_step, seed, epoch):
    order = ShuffledOrder(num_rows, rows_per_step, seed)
    first = epoch * order.steps_per_epoch + 1
    visits = Counter(row for step in range(first, first + order.steps_per_epoch) for row in order.rows(step))
    assert set(visits) <= set(range(num_rows))
    if rows_per_step <= num_rows:
        assert order.steps_per_epoch == num_rows // rows_per_step
        assert set(visits.values()) == {1}
        assert num_rows - len(visits) == num_rows % rows_per_step
    else:
        assert order.steps_per_epoch == 1
        assert visits.total() == rows_per_step
        assert len(visits) == num_rows
        assert max(visits.values()) - min(visits.values()) <= 1


def test_the_rows_of_a_step_depend_on_nothing_that_happened_before():
    in_order = [ShuffledOrder(10, 3, seed=1).rows(step) for step in range(1, 13)]
    backwards = [ShuffledOrder(10, 3, seed=1).rows(step) for step in reversed(range(1, 13))]
    assert in_order == backwards[::-1]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [ShuffledOrder(100, 100, seed).rows(epoch) for seed in (1, 2) for epoch in (1, 2)]
    assert all(sorted(rows) == list(range(100)) for rows in orders)
    assert len({tuple(rows) for rows in orders}) == 4


def test_the_global_batch_alone_decides_which_rows_form_a_step():
    assert ShuffledOrder(50, 8 * 1, 3).rows(4) == ShuffledOrder(50, 2 * 4, 3).rows(4)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 512), min_size=16, max_size=16), world=st.sampled_from([1, 2, 4]))
@pytest.mark.parametrize("num_micro_batches", [1, 2, 4])
def test_a_step_is_dealt_out_whole_in_equal_shares_on_any_number_of_ranks(num_micro_batches, lengths, world):
    rows = list(range(16))
    shares = split_step(rows, num_micro_batches, world, lengths)
    assert [len(ranks) for ranks in shares] == [world] * num_micro_batches
    flat = [share for ranks in shares for share in ranks]
    assert {len(share) for share in flat} == {16 // (num_micro_batches * world)}
    assert sorted(row for share in flat for row in share) == rows


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 512), min_size=16, max_size=16))
def test_a_micro_batch_holds_the_same_rows_on_any_number_of_ranks(lengths):
    def micro_batches(world):
        return [sorted(chain(*ranks)) for ranks in split_step(list(range(16)), 2, world, lengths)]

    assert micro_batches(1) == micro_batches(2) == micro_batches(4)


def test_rows_of_similar_length_share_a_micro_batch_the_longest_first_and_ties_keep_their_order():
    assert split_step(list("abcdef"), 3, 1, [1, 9, 5, 1, 9, 5]) == [[["b", "e"]], [["c", "f"]], [["a", "d"]]]


def test_a_step_that_does_not_divide_is_our_mistake():
    with pytest.raises(AssertionError, match="5 rows, 2 micro-batches, 1 ranks"):
        split_step(list(range(5)), 2, 1, [1] * 5)
