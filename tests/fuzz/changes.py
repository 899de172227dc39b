"""What hurts, and where: changes of bytes, of JSON values and of texts of lines."""

from __future__ import annotations

import copy
import struct
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fuzz.watch import MARK

OUTSIDE = "/tmp/fuzz-outside"
COMMAND = f"touch {MARK}"
DEEP: Any = None
for _ in range(300):
    DEEP = [DEEP]

TEXTS: list[str] = [
    *("", " ", "\0", "a\0b", "\ud800", "\udcff", "\u202e", "\u2028", "\x1b[31m", "[red]", "٣", "²"),
    *(
        "../../x",
        f"{OUTSIDE}/secret",
        "/etc/passwd",
        "/dev/zero",
        "/dev/stdin",
        ".",
        "..",
        "~",
        "~x",
    ),
    *("pipe:" + COMMAND, f"$({COMMAND})", f"|{COMMAND}", "http://127.0.0.1:9/a", "s3://b/a", "-"),
    *(
        "file:///etc/passwd",
        "evil.py:Evil",
        "org/model",
        "x" * 5_000,
        "nan",
        "inf",
        "-inf",
        "1e999",
    ),
    *("9" * 5_000, "1_0", "0x10", "True", "null", "💥", "é", "e\u0301", "a" * 255, "*&!|>%@`"),
]
NUMBERS: list[Any] = [
    *(0, -1, 1, 2, 255, 2**31, 2**32, 2**53, 2**63, 2**64, 10**9, 10**30, -(2**63)),
    *(0.0, -0.5, 1e-300, 1e38, 1e300, float("nan"), float("inf"), -float("inf"), 0.1),
]
MISTYPED: list[Any] = [
    *(None, True, False, [], {}, [[]], [None], {"": None}, DEEP),
    *({"type": "command", "channels": [0], "source": COMMAND}, [1] * 2_000),
    {"id": "x", "sources": [], "sampling_rate": 1},
]

nasty_texts = st.sampled_from(TEXTS) | st.text(max_size=12)
nasty_values = st.one_of(
    nasty_texts, st.sampled_from(NUMBERS), st.sampled_from(MISTYPED), st.integers(), st.floats()
)


def _spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if len(path) < 12:
        if isinstance(value, dict):
            found += [p for key in value for p in _spots(value[key], (*path, key))]
        elif isinstance(value, list):
            found += [p for n in range(min(len(value), 6)) for p in _spots(value[n], (*path, n))]
    return found


_CHANGES = "replace replace replace delete rename add wrap many".split()


@st.composite
def changed_values(draw: DrawFn, value: Any, most: int = 3) -> Any:
    """Change a JSON value in one to several places."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        spots = [spot for spot in _spots(value) if spot]
        if not spots:
            return draw(nasty_values)
        *way, last = draw(st.sampled_from(spots))
        parent = value
        for step in way:
            parent = parent[step]
        change = draw(
            st.sampled_from("replace replace replace delete rename add wrap many".split())
        )
        if change == "replace":
            parent[last] = copy.deepcopy(draw(nasty_values))  # drawn lists may be changed next
        elif change == "delete":
            del parent[last]
        elif change == "rename" and isinstance(parent, dict):
            parent[draw(nasty_texts)] = parent.pop(last)
        elif change == "add" and isinstance(parent, dict):
            parent[draw(nasty_texts)] = copy.deepcopy(draw(nasty_values))
        elif change == "many" and isinstance(parent, list):
            parent += [copy.deepcopy(parent[last])] * draw(st.sampled_from([1, 50, 2_000]))
        else:
            parent[last] = [parent[last]]
    return value


@st.composite
def changed_bytes(draw: DrawFn, data: bytes, head: int = 200) -> bytes:
    """Flip, cut, lengthen and repeat; mostly where headers are."""
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, min(len(made), head) - 1)))
        if draw(st.integers(0, 5)) == 0:
            place = draw(st.integers(0, max(0, len(made) - 1)))
        change = draw(st.sampled_from("flip integer cut insert repeat zero".split()))
        if change == "flip" and made:
            made[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "integer":
            form = draw(st.sampled_from(["<I", ">I", "<H", ">H", "<Q", ">Q", "B"]))
            size = struct.calcsize(form)
            options = [0, 1, 2, 7, 16, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 15_999]
            number = draw(st.sampled_from(options)) % 2 ** (8 * size)
            made[place : place + size] = struct.pack(form, number)
        elif change == "cut":
            del made[place : place + draw(st.sampled_from([1, 4, 64, 1 << 20]))]
        elif change == "insert":
            made[place:place] = draw(st.binary(max_size=8)) or b"\0"
        elif change == "repeat":
            made[place:place] = made[place : place + 64] * draw(st.integers(1, 8))
        else:
            made[place : place + 16] = bytes(16)
    return bytes(made)


LINES = [
    "",
    "\t",
    ",",
    '"',
    "'",
    ";",
    "#",
    "\r",
    "\x1b[2J",
    "a b c d e f g h",
    "1 2",
    ";; x",
    "\ufeff",
]


@st.composite
def changed_text(draw: DrawFn, data: bytes) -> bytes:
    """Change cells, lines or the coding of a text of lines."""
    text = data.decode("utf-8", "replace")
    lines = text.split("\n")
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, min(len(lines), 8) - 1)))
        change = draw(st.sampled_from("cell cell cell drop twice line many quote swap".split()))
        if change == "cell":
            mark = next((m for m in ("\t", ",", ";", " ") if m in lines[place]), " ")
            cells = lines[place].split(mark)
            cells[draw(st.integers(0, len(cells) - 1))] = draw(nasty_texts)
            lines[place] = mark.join(cells)
        elif change == "drop":
            del lines[place]
        elif change == "twice":
            lines.insert(place, lines[place])
        elif change == "line":
            lines.insert(place, draw(st.sampled_from(LINES) | nasty_texts))
        elif change == "many":
            lines[place : place + 1] = [lines[place]] * draw(st.sampled_from([3, 300, 5_000]))
        elif change == "quote":
            lines[place] = '"' + lines[place]
        else:
            lines.reverse()
        lines = lines or [""]
    made = "\n".join(lines)
    coding = draw(st.sampled_from("utf-8 utf-8 utf-8 utf-8 utf-16 latin-1 utf-8-sig".split()))
    errors = "surrogatepass" if coding.startswith("utf") else "replace"
    packed = made.encode(coding, errors)
    return draw(changed_bytes(packed)) if draw(st.integers(0, 9)) == 0 else packed
