"""Text, broken text and what is not text at all, as strategies."""

from hypothesis import strategies as st

# What breaks readers: line breaks only outside JSON, NUL, BOM, emoji with joiners, right-to-left, combining marks.
ODD = [
    "",
    " ",
    "\u2028",
    "\u2029",
    "\x85",
    "\x00",
    "\ufeff",
    "\r\n",
    "\n\n",
    "👩‍👩‍👧",
    "🏳️‍🌈",
    "שלום",
    "é",
    "{}",
    "{input}",
]
ODD += ["### Response:", "### Instruction:\n", "\\", '"', "\u202e", "￿", "𝔘", "%s", "\x1b[0m", "x" * 300]
TEXT = st.sampled_from(ODD) | st.text(max_size=12)  # no lone surrogates: not text
BROKEN_TEXT = st.builds("{}{}".format, TEXT, st.sampled_from(["\ud800", "\udfff", "\udc80a"]))
JUNK = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.lists(st.integers(), max_size=2)
JUNK |= st.dictionaries(st.text(max_size=3), st.integers(), max_size=2) | st.sampled_from(
    [[], {}, [[]], [None], ["a", 1]]
)
