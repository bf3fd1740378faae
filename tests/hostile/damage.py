"""Ways to damage a file, as strategies."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

FOREIGN = [b"", b"\0", b"{}", b"[]", b"null", b"\xff\xfe\0\0", b"MMIDIDX\0\0", b"PK\x03\x04", b"x" * 300, b"\n" * 5]


@dataclass(frozen=True)
class Damage:
    """One thing that happened to a file; places are fractions of its length."""

    kind: str
    places: tuple[float, ...] = ()
    value: int = 0

    def apply(self, path: Path, other: Path | None = None) -> bool:
        """Damage `path` (`other` is what it may be swapped with); say whether its bytes have changed."""
        before = path.read_bytes()
        if self.kind == "delete":
            path.unlink()
            return True
        if self.kind == "swap":
            if other is not None and other.exists():
                shutil.copyfile(other, path)
            return path.read_bytes() != before
        path.write_bytes(self.damaged(bytearray(before)))
        return path.read_bytes() != before

    def damaged(self, content: bytearray) -> bytes:
        at = [int(place * len(content)) for place in self.places]
        if self.kind == "flip":
            for index in at:
                if content:
                    content[index] ^= self.value
        elif self.kind == "truncate":
            return bytes(content[: at[0]])
        elif self.kind == "halves":
            return bytes(content[at[0] :] + content[: at[0]])
        elif self.kind == "append":
            return bytes(content) + bytes([self.value] * (1 + self.value % 40))
        elif self.kind == "foreign":
            return FOREIGN[self.value % len(FOREIGN)]
        return bytes(content)


def damages(*kinds: str) -> st.SearchStrategy[Damage]:
    """Return deletions, truncations, flipped bytes, swapped halves, appended bytes, foreign and swapped files."""
    places = st.floats(0, 1, exclude_max=True)
    of_kind = {
        "flip": st.builds(
            Damage, st.just("flip"), st.lists(places, min_size=1, max_size=3).map(tuple), st.integers(1, 255)
        ),
        "truncate": st.builds(Damage, st.just("truncate"), st.tuples(places)),
        "halves": st.builds(Damage, st.just("halves"), st.tuples(places)),
        "append": st.builds(Damage, st.just("append"), st.just(()), st.integers(0, 255)),
        "foreign": st.builds(Damage, st.just("foreign"), st.just(()), st.integers(0, len(FOREIGN) - 1)),
        "delete": st.just(Damage("delete")),
        "swap": st.just(Damage("swap")),
    }
    return st.one_of([of_kind[kind] for kind in kinds or of_kind])
