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


def write(prefix, items, dtype):
    with IndexedDatasetWriter(prefix, dtype) as store:
        for item in items:
            store.add(item)


IDS = {
    "<u2": st.integers(0, 65_534) | st.sampled_from([65_534, 65_535]),
    "<u4": st.integers(0, 2**32 - 2) | st.sampled_from([65_535, 2**32 - 2, 2**32 - 1]),
}
STORES = st.sampled_from(sorted(IDS)).flatmap(
    lambda dtype: st.tuples(st.just(dtype), st.lists(st.lists(IDS[dtype], max_size=5), max_size=4))
)


@cases(600, store=STORES)
def test_ids_come_back(tmp_path, store):
    dtype, items = store
    write(tmp_path / "store", items, np.dtype(dtype))
    found = IndexedDataset(tmp_path / "store")
    assert found.dtype == np.dtype(dtype)
    assert [item.tolist() for item in found] == items


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


# ---- damaged files -----------------------------------------------------------------------------------------------


@pytest.fixture
def sound(tmp_path):
    """A store of 6 rows (prompt, separator, response) and one of the same size, to swap files with."""
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
