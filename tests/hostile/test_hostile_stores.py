"""Token stores: what the writer wrote comes back; anything else is refused, or every item read lies within the file."""

import numpy as np
import pytest
from hypothesis import strategies as st

from data_utils.errors import UserError
from data_utils.indexed_dataset import IndexedDataset, IndexedDatasetWriter, separator, store_paths, token_dtype
from data_utils.instructions import InstructionDataset
from data_utils.store_meta import check_tokenizer
from tests.hostile.cases import cases, refusal
from tests.hostile.damage import damages

SMALL_IDS = st.integers(0, 65_534)
LARGE_IDS = st.integers(0, 2**32 - 2)


def items_of(ids):
    return st.lists(st.lists(ids, max_size=5), max_size=4)


def write(prefix, items, dtype):
    with IndexedDatasetWriter(prefix, dtype) as store:
        for item in items:
            store.add(item)


def check_round_trip(prefix, items, dtype):
    write(prefix, items, dtype)
    store = IndexedDataset(prefix)
    assert store.dtype == dtype
    assert [item.tolist() for item in store] == items


@cases(300, items=items_of(SMALL_IDS | st.sampled_from([65_534, 65_535])))
def test_uint16_ids_come_back(tmp_path, items):
    check_round_trip(tmp_path / "store", items, np.dtype("<u2"))


@cases(300, items=items_of(LARGE_IDS | st.sampled_from([65_535, 2**32 - 2, 2**32 - 1])))
def test_uint32_ids_come_back(tmp_path, items):
    check_round_trip(tmp_path / "store", items, np.dtype("<u4"))


@cases(300, dtype=st.sampled_from(["<u2", "<u4"]), item=st.lists(st.integers(-(2**40), 2**40), max_size=5))
def test_an_id_that_does_not_fit_is_refused_not_wrapped_around(tmp_path, dtype, item):
    fits = all(0 <= token <= separator(dtype) for token in item)
    refused = refusal(write, tmp_path / "store", [item], dtype)
    assert (refused is None) == fits
    if fits:
        assert IndexedDataset(tmp_path / "store")[0].tolist() == item


@cases(300, vocabulary=st.integers(1, 200_000) | st.sampled_from([65_533, 65_534, 65_535, 65_536]))
def test_no_id_of_a_vocabulary_is_the_separator(vocabulary):
    assert vocabulary - 1 < separator(token_dtype(vocabulary))


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_534, "<u2"), (65_535, "<u2"), (65_536, "<u4")])
def test_the_limit_of_uint16(vocabulary, dtype):
    assert token_dtype(vocabulary) == np.dtype(dtype)


# ---- damaged files -----------------------------------------------------------------------------------------------


@pytest.fixture
def sound(tmp_path):
    """A store of 6 rows (prompt, separator, response) and one of as many bytes, to swap files with."""
    folder = tmp_path
    random = np.random.default_rng(0)
    for name in ("train_0", "valid_0"):
        rows = [[*random.integers(0, 500, 3), 65_535, *random.integers(0, 500, 2 + i), 1] for i in range(6)]
        write(folder / name, rows, "<u2")
    return folder


@cases(1000, ending=st.sampled_from([".bin", ".idx"]), damage=damages())
def test_a_damaged_store_is_refused_or_read_within_its_bounds(sound, ending, damage):
    path = sound / f"train_0{ending}"
    whole = path.read_bytes()
    damage.apply(path, sound / f"valid_0{ending}")
    check_items(sound / "train_0")
    check_rows(sound)
    path.write_bytes(whole)


def check_items(prefix):
    try:
        store = IndexedDataset(prefix)
    except UserError as error:
        assert "\n" not in str(error)
        return
    items = [item.tolist() for item in store]
    bin_path, _ = store_paths(prefix)
    assert b"".join(np.array(item, store.dtype).tobytes() for item in items) == bin_path.read_bytes()
    assert all(0 <= token <= separator(store.dtype) for item in items for token in item)


def check_rows(folder):
    try:
        rows = InstructionDataset(folder, "train", 64, 32)
        largest = rows.largest_id
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert len(rows) == 6
    for row in (rows[index] for index in range(len(rows))):
        assert row.response
        assert all(0 <= token <= largest < 65_535 for token in row.prompt + row.response)


# ---- what was wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "what"), [([3, 65_535, 4, 65_535, 5], "two separators"), ([3, 65_535], "no response"), ([65_535], "no")]
)
def test_bug_an_item_with_two_separators_or_no_response_was_trained_on(tmp_path, item, what):
    write(tmp_path / "train_0", [[7, 65_535, 8], item], "<u2")
    with pytest.raises(UserError, match=f"item 1 has {what}"):
        InstructionDataset(tmp_path, "train", 64, 32)


@pytest.mark.parametrize("content", ["[]", "{}", '{"tokenizer": []}', '{"tokenizer": {"name": "x"}}', "{"])
def test_bug_a_meta_json_without_a_fingerprint_ended_in_a_traceback(tmp_path, tokenizer, content):
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(UserError, match=r"meta\.json is damaged"):
        check_tokenizer(tmp_path, tokenizer)
