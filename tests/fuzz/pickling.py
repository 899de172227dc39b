"""Pickles opcode by opcode: gadgets, bombs, and changes of what is valid."""

from __future__ import annotations

import itertools
import pickle
import pickletools
import struct
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from fuzz.changes import COMMAND


def _gadgets() -> list[str]:
    return [
        *("os system", "posix system", "nt system", "subprocess Popen", "subprocess check_output"),
        *(
            "builtins eval",
            "builtins exec",
            "__builtin__ eval",
            "builtins getattr",
            "builtins open",
        ),
        *("builtins __import__", "builtins compile", "builtins print", "importlib import_module"),
        *("operator attrgetter", "operator methodcaller", "functools partial", "types CodeType"),
        *(
            "torch load",
            "torch.serialization load",
            "torch.hub load",
            "torch._utils _rebuild_tensor_v2",
        ),
        *("torch._utils _rebuild_parameter", "torch FloatStorage", "torch Size", "torch device"),
        *("torch.jit load", "torch.package PackageImporter", "torch._tensor _rebuild_from_type_v2"),
        *("torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_meta_tensor_no_storage"),
        *("collections OrderedDict", "collections defaultdict", "collections Counter"),
        *("numpy load", "numpy.core.multiarray _reconstruct", "numpy._core.multiarray scalar"),
        *("numpy dtype", "_codecs encode", "pickle loads", "shutil rmtree", "pathlib PosixPath"),
        *("argparse Namespace", "omegaconf.dictconfig DictConfig", "webbrowser open", "pty spawn"),
        *("fairseq.data.dictionary Dictionary", "runpy run_path", "code interact", "timeit timeit"),
        *("speechft.encoders.conversion.safe_pickle Inert", "typing Any", "builtins list"),
        *("torch ones", "torch zeros", "torch.nn.modules.linear Linear", "builtins bytearray"),
    ]


_PUSHES = [
    *(b"N", b"\x88", b"K\x05", b"J\xff\xff\xff\x7f", b"M\x00\x01", b"G\x7f\xf0\0\0\0\0\0\0", b"]"),
    *(
        b"}",
        b")",
        b"(",
        b"2",
        b"0",
        b"h\0",
        b"q\0",
        b"\x94",
        b"j\x05\0\0\0",
        b"\x8f",
        b"I9\n",
        b"I01\n",
    ),
    *(b"L99999999999999999999L\n", b"V\\ud800\n", b"S'x'\n", b"\x8a\xff" + b"\x7f" * 255),
]
_ACTS = [
    b"R",
    b"b",
    b"s",
    b"u",
    b"e",
    b"a",
    b"t",
    b"\x81",
    b"\x92",
    b"o",
    b"\x85",
    b"\x86",
    b"\x87",
]
_ACTS += [b"Q", b"\x90", b"\x91", b"\x93", b"0", b"1", b"\x97", b"\x98", b"d", b"l", b"P0\n"]


@st.composite
def pickles(draw: DrawFn) -> bytes:
    """Assemble a pickle opcode by opcode around the names of a list of gadgets."""
    parts = [b"\x80" + bytes([draw(st.sampled_from([2, 2, 2, 3, 4, 5, 0, 9]))])]
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.integers(0, 9))
        if kind < 3:
            module, _, name = draw(st.sampled_from(_gadgets())).partition(" ")
            if draw(st.booleans()):
                parts.append(f"c{module}\n{name}\n".encode())
            else:
                parts += [_short(module), _short(name), b"\x93"]
            if draw(st.booleans()):
                argument = draw(
                    st.sampled_from([COMMAND, f"import os; os.system('{COMMAND}')", "x"])
                )
                parts += [_short(argument), b"\x85", draw(st.sampled_from([b"R", b"\x81", b"b"]))]
        elif kind == 3:
            parts.append(
                _short(draw(st.sampled_from(["model", "state_dict", "Config", "args", "x"])))
            )
        elif kind < 7:
            parts.append(draw(st.sampled_from(_PUSHES)))
        else:
            parts.append(draw(st.sampled_from(_ACTS)))
    parts.append(b"." if draw(st.integers(0, 9)) else b"")
    return b"".join(parts)


def _short(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


@st.composite
def pickle_bombs(draw: DrawFn) -> bytes:
    """Double a list, a tuple or a dict through the memo, n times."""
    count = draw(st.sampled_from([10, 40, 400]))
    kind = draw(st.sampled_from("list tuple dict".split()))
    value: Any = [1]
    for _ in range(count):
        value = {"list": [value, value], "tuple": (value, value), "dict": {"a": value, "b": value}}[
            kind
        ]
    return pickle.dumps({"model": value, "cfg": value}, 2)


@st.composite
def changed_opcodes(draw: DrawFn, data: bytes) -> bytes:
    """Drop, repeat and swap whole opcodes of a pickle."""
    places = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(pieces) - 1))
        change = draw(st.integers(0, 3))
        if change == 0:
            del pieces[place]
        elif change == 1:
            pieces.insert(place, pieces[place])
        elif change == 2:
            pieces.insert(place, draw(st.sampled_from(_PUSHES + _ACTS)))
        else:
            other = draw(st.integers(0, len(pieces) - 1))
            pieces[place], pieces[other] = pieces[other], pieces[place]
        pieces = pieces or [b"."]
    return b"".join(pieces)
