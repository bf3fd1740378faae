"""Guarantees of data_utils/batching.py."""

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.batching import Row, ShuffledOrder, collate, split_step

PAD = 0
token_ids = st.integers(1, 99)
row_lists = st.lists(
    st.builds(Row, st.lists(token_ids, max_size=12), st.lists(token_ids, min_size=1, max_size=20), st.integers(0, 999)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(rows=row_lists, multiple=st.sampled_from([1, 8]))
def test_a_batch_holds_the_ids_of_each_row_and_their_successors_as_labels(rows, multiple):
    batch = collate(rows, PAD, multiple)
    for i, row in enumerate(rows):
        ids = row.prompt + row.response
        size = len(ids) - 1
        assert batch.input_ids[i].tolist() == ids[:-1] + [PAD] * (batch.input_ids.shape[1] - size)
        assert batch.attention_mask[i].tolist() == [1] * size + [0] * (batch.input_ids.shape[1] - size)
        for t, label in enumerate(batch.labels[i].tolist()):
            is_response = len(row.prompt) <= t + 1 <= size
            assert label == (ids[t + 1] if is_response else -100)
    assert batch.row_ids.tolist() == [row.row_id for row in rows]


@settings(max_examples=60, deadline=None)
@given(rows=row_lists)
def test_a_batch_is_as_wide_as_its_longest_row_rounded_up_to_8(rows):
    width = collate(rows, PAD).input_ids.shape[1]
    longest = max(len(row) - 1 for row in rows)
    assert width % 8 == 0
    assert longest <= width < max(longest, 1) + 8


@settings(max_examples=60, deadline=None)
@given(rows=row_lists)
def test_every_response_token_after_a_prompt_counts_once(rows):
    batch = collate(rows, PAD)
    # the first token of a row without a prompt has nothing to be predicted from
    expected = sum(len(row.response) - (not row.prompt) for row in rows)
    assert int(batch.response_mask.sum()) == expected


def test_a_batch_by_hand():
    batch = collate([Row([5, 6], [7, 8, 9], 4), Row([5], [2], 1)], pad_id=9, multiple=1)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [5, 9, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch.labels.tolist() == [[-100, 7, 8, 9], [2, -100, -100, -100]]
    assert batch.row_ids.tolist() == [4, 1]


def test_a_batch_is_of_integers_and_all_that_models_and_losses_read_moves_with_it():
    batch = collate([Row([1], [2, 3], 0)], PAD).to(torch.device("meta"))
    for name, tensor in vars(batch).items():
        assert tensor.dtype == torch.int64
        assert tensor.device.type == ("cpu" if name in ("response_counts", "row_ids") else "meta")


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


def test_positions_and_counts_are_those_of_the_masks():
    batch = collate([Row([1, 2, 3], [4, 5], 7), Row([6], [], 8), Row([], [9, 1, 2, 3], 9)], PAD)
    tokens, responses = (mask.flatten().nonzero().squeeze(1) for mask in (batch.attention_mask, batch.response_mask))
    assert torch.equal(batch.token_positions, tokens) and torch.equal(batch.response_positions, responses)
    assert batch.response_counts.tolist() == batch.response_mask.sum(1).tolist() == [2, 0, 3]
