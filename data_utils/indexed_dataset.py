"""The binary token store: Megatron's index format, written once and read through a memory map.

`<prefix>.bin` holds the token ids of all items in order, little endian. `<prefix>.idx` holds, packed:

    magic "MMIDIDX\\0\\0" | u64 version 1 | u8 dtype code | u64 items N | u64 document-index entries 1
    | int32 sizes [N] | int64 byte offsets [N] | int64 document index [1] = 0
"""

import os
import struct
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from data_utils.errors import UserError
from data_utils.files import atomic_file

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPE_OF_CODE: dict[int, np.dtype] = {8: np.dtype("<u2"), 9: np.dtype("<u4")}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}


def separator(dtype: DTypeLike) -> int:
    """Return the id that separates prompt and response: the largest value of the dtype."""
    return int(np.iinfo(np.dtype(dtype)).max)


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest dtype that holds every id below `vocab_size` and keeps its largest value free."""
    return np.dtype("<u2") if vocab_size <= separator("<u2") else np.dtype("<u4")


def store_paths(prefix: str | Path) -> tuple[Path, Path]:
    """Return the paths of the two files, `<prefix>.bin` and `<prefix>.idx`."""
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


class IndexedDatasetWriter(AbstractContextManager):
    """Write items to `<prefix>.bin` and `<prefix>.idx`; neither name exists before `close()`.

    As a context manager it closes at the end of the block, and leaves nothing behind if the block fails.
    """

    def __init__(self, prefix: str | Path, dtype: DTypeLike) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        assert self.dtype in CODE_OF_DTYPE, f"a token store holds uint16 or uint32, not {dtype}"
        bin_path, self._idx_path = store_paths(prefix)
        self._open_files = ExitStack()
        temporary = self._open_files.enter_context(atomic_file(bin_path))
        self._file = self._open_files.enter_context(temporary.open("wb"))
        self._sizes: list[int] = []

    def add(self, ids: ArrayLike) -> None:
        """Append one item, `[size]` token ids."""
        item = np.asarray(ids)
        if item.size and (item.min() < 0 or item.max() > separator(self.dtype)):
            raise UserError(f"token ids {item.min()}..{item.max()} do not fit in {self.dtype.name}")
        self._file.write(item.astype(self.dtype).tobytes())
        self._sizes.append(item.size)

    def close(self) -> None:
        """Put both files in place; the index, without which nothing is readable, comes last."""
        self._open_files.close()
        with atomic_file(self._idx_path) as temporary:
            temporary.write_bytes(_index(self.dtype, np.asarray(self._sizes, dtype="<i4")))

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._open_files.__exit__(type(error), error, trace)


class IndexedDataset:
    """Read a store; `tokens` maps all items as one array, item i from `starts[i]` on, `sizes[i]` long.

    If our tools replace the store meanwhile, the old version is still read; writing into the file is an error.
    """

    def __init__(self, prefix: str | Path) -> None:
        bin_path, idx_path = store_paths(prefix)
        for path in (bin_path, idx_path):
            if not path.is_file():
                raise UserError(f"{path} does not exist: process the data first (tools/process_data_*.py)")
        self.dtype, self.sizes = _read_index(idx_path)
        self.starts = _item_starts(self.sizes)
        num_tokens = int(self.sizes.sum(dtype=np.int64))
        self._file = open(bin_path, "rb")  # noqa: SIM115 (as long as it is mapped)
        self._opened = self._state()
        expected, found = num_tokens * self.dtype.itemsize, self._opened[0]
        if found != expected:
            raise UserError(f"{bin_path} has {found} bytes, but its index says {expected}: process the data again")
        # an empty file cannot be mapped
        self.tokens = np.memmap(self._file, self.dtype, "r") if num_tokens else np.zeros(0, self.dtype)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return item `index`: `[size]` token ids, a view of the memory map.

        Raises:
            UserError: somebody has written into the file since it was opened.
        """
        state = self._state()
        if state != self._opened:
            raise UserError(
                f"{self._file.name} was changed while it was being read ({self._opened[0]} bytes before, {state[0]} "
                "now): write a new store beside it and rename that; what was complete before is intact"
            )
        start = self.starts[index]
        return self.tokens[start : start + self.sizes[index]]

    def _state(self) -> tuple[int, int]:
        """Return size and modification time of the mapped file, even if another file has its name now."""
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


def _item_starts(sizes: np.ndarray) -> np.ndarray:
    """Return where each item starts, in tokens: `[N]` int64."""
    return np.cumsum(sizes, dtype="<i8") - sizes


def _index(dtype: np.dtype, sizes: np.ndarray) -> bytes:
    """Return the content of `<prefix>.idx` for items of these sizes `[N]`."""
    header = HEADER.pack(MAGIC, VERSION, CODE_OF_DTYPE[dtype], len(sizes), 1)
    offsets = _item_starts(sizes) * dtype.itemsize
    return header + sizes.tobytes() + offsets.tobytes() + struct.pack("<q", 0)


def _read_index(path: Path) -> tuple[np.dtype, np.ndarray]:
    """Return dtype and item sizes `[N]`; raise unless the file is a complete index of this format."""
    content = path.read_bytes()
    try:
        _, _, code, num_items, _ = HEADER.unpack_from(content)
        dtype, sizes = DTYPE_OF_CODE[code], np.frombuffer(content, "<i4", num_items, HEADER.size)
        complete = (sizes >= 0).all() and content == _index(dtype, sizes)
    except (struct.error, KeyError, ValueError, OverflowError):  # too short, another dtype, more items than bytes
        complete = False
    if not complete:
        raise UserError(
            f"{path} is damaged, or not an index of version {VERSION} with ids of 2 or 4 bytes and one document-index "
            "entry: process the data again"
        )
    return dtype, sizes
