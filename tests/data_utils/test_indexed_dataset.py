"""Guarantees of data_utils/indexed_dataset.py."""

import os
import struct
import time

import numpy as np
import pytest

from data_utils.errors import UserError
from data_utils.indexed_dataset import IndexedDataset, IndexedDatasetWriter

ITEMS = [[1, 2, 3], [], [65534, 0], [7]]


def write(prefix, items, dtype="uint16"):
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for item in items:
            writer.add(item)
    return prefix


def parse(prefix):
    """Read a store with `struct` alone, field by field, as the format is specified: (dtype code, items)."""
    index, data = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, num_items, num_documents = struct.unpack("<QBQQ", index[9:34])
    assert (version, num_documents) == (1, 1)
    sizes = struct.unpack(f"<{num_items}i", index[34 : 34 + 4 * num_items])
    offsets = struct.unpack(f"<{num_items}q", index[34 + 4 * num_items : 34 + 12 * num_items])
    assert index[34 + 12 * num_items :] == struct.pack("<q", 0)
    letter = {8: "H", 9: "I"}[code]
    assert len(data) == sum(sizes) * struct.calcsize(f"<{letter}")
    places = zip(sizes, offsets, strict=True)
    return code, [list(struct.unpack_from(f"<{size}{letter}", data, offset)) for size, offset in places]


@pytest.mark.parametrize(("dtype", "code"), [("uint16", 8), (np.uint32, 9)])
def test_the_bytes_are_those_of_the_index_format(tmp_path, dtype, code):
    assert parse(write(tmp_path / "train_0", ITEMS, dtype)) == (code, ITEMS)


def test_a_store_made_byte_by_byte_is_read(tmp_path):
    (tmp_path / "a.bin").write_bytes(struct.pack("<3I", 70000, 5, 6))
    (tmp_path / "a.idx").write_bytes(
        b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 9, 2, 1) + struct.pack("<2i2qq", 1, 2, 0, 4, 0)
    )
    dataset = IndexedDataset(str(tmp_path / "a"))
    assert [item.tolist() for item in dataset] == [[70000], [5, 6]]


def test_nothing_has_the_final_names_before_close(tmp_path):
    writer = IndexedDatasetWriter(tmp_path / "x", "uint16")
    writer.add([1])
    assert not list(tmp_path.glob("x*"))
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.idx"]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), IndexedDatasetWriter(tmp_path / "x", "uint16") as writer:
        writer.add([1])
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["bin", "idx"])
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_truncated_or_longer_file_is_a_value_error_at_opening(tmp_path, ending, change):
    path = write(tmp_path / "x", ITEMS).with_suffix(f".{ending}")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"x.{ending}"):
        IndexedDataset(tmp_path / "x")


@pytest.mark.parametrize(
    ("position", "value"),
    [
        pytest.param(0, b"X", id="magic"),
        pytest.param(9, b"\x02", id="version"),
        pytest.param(17, b"\x04", id="dtype code int32"),
        pytest.param(18, b"\xff", id="number of items"),
        pytest.param(26, b"\x02", id="document-index entries"),
        pytest.param(34, b"\x02", id="a size"),
        pytest.param(37, b"\xff", id="a negative size"),
        pytest.param(34 + 16 + 8, b"\x01", id="an offset"),
    ],
)
def test_a_foreign_or_damaged_index_is_a_value_error_at_opening(tmp_path, position, value):
    path = write(tmp_path / "x", ITEMS).with_suffix(".idx")
    content = bytearray(path.read_bytes())
    content[position : position + 1] = value
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.idx"):
        IndexedDataset(tmp_path / "x")


def test_a_missing_store_says_how_to_make_it(tmp_path):
    with pytest.raises(ValueError, match=r"x\.bin does not exist: process the data"):
        IndexedDataset(tmp_path / "x")


@pytest.mark.parametrize("change", ["truncated", "rewritten"])
def test_a_store_that_is_written_into_while_it_is_read_is_one_line(tmp_path, change):
    """A truncated map would kill the process at its next read; a rewritten one would give other ids."""
    write(tmp_path / "a", [[1, 2], [3]], "<u2")
    store, path = IndexedDataset(tmp_path / "a"), tmp_path / "a.bin"
    assert store[1].tolist() == [3]
    time.sleep(0.02)  # the file system's clock ticks in milliseconds
    if change == "truncated":
        os.truncate(path, 2)
    else:
        path.write_bytes(bytes([9] * 6))
    with pytest.raises(
        UserError, match=rf"a\.bin was changed while it was being read \(6 bytes before, {path.stat().st_size} now"
    ):
        store[0]


def test_a_store_that_our_writer_replaces_is_read_on_as_it_was(tmp_path):
    write(tmp_path / "a", [[1, 2], [3]], "<u2")
    store = IndexedDataset(tmp_path / "a")
    write(tmp_path / "a", [[7]], "<u2")
    assert [item.tolist() for item in store] == [[1, 2], [3]]
    assert IndexedDataset(tmp_path / "a")[0].tolist() == [7]
    (tmp_path / "a.bin").unlink()
    assert store[1].tolist() == [3]
