"""Files and folders that hold no weights that can be read: what they are, and what helps."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

from speechft.commands import command
from speechft.errors import CheckpointError
from speechft.runs import unfinished
from speechft.storage.disk import reading
from speechft.storage.files import CONFIG_NAME, WEIGHT_SUFFIXES
from speechft.storage.headers import read_header

_RECORDINGS = (b"riff", b"rf64", b"flac", b"oggs", b"id3", b"form", b"caff", b".snd", b"nist_1a")
_PACKED = {b"bzh": "bzip2", b"\xfd7zxz": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"7z\xbc\xaf": "7z"}
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights themselves",
        "run git lfs pull in its folder, or download the file itself",
    ),
    (
        b"# xet version",
        "is a Xet pointer, not the weights themselves",
        "download the file itself: hf download OWNER/NAME",
    ),
    (b"<!doctype", "is a web page", "download the file itself, not the page that shows it"),
    (b"<html", "is a web page", "download the file itself, not the page that shows it"),
    (b"<?xml", "is text in XML, not a checkpoint", "download the file itself"),
    (b"\x89hdf", "is HDF5 (Keras, TensorFlow)", "save it from PyTorch as safetensors"),
    (b"gguf", "is GGUF, for llama.cpp", "give the model that it was made of"),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it"),
    (b"\x93numpy", "is a numpy array", "save a state dict as safetensors"),
    *((magic, "is a recording", "give it to extract, behind the encoder") for magic in _RECORDINGS),
    *((magic, f"is compressed with {name}", "unpack it") for magic, name in _PACKED.items()),
    (b"par1", "is parquet, a table", "a table of recordings is prepared: {prepare}"),
    (b"%pdf", "is a PDF", "give an encoder folder or a file of weights"),
    (b"\x89png", "is a picture", "give an encoder folder or a file of weights"),
    (b"\xff\xd8\xff", "is a picture", "give an encoder folder or a file of weights"),
)
"""First bytes in lower case, what such a file is, and what to do."""

_SUFFIXES: dict[str, tuple[str, str]] = {
    ".py": (
        "is Python code, not a checkpoint",
        "an encoder of your own is named with its class and evaluated: {evaluate}",
    ),
    ".ipynb": ("is a notebook, not a checkpoint", "give the encoder that it saved"),
    ".yaml": ("is text in YAML, not a checkpoint", "a recipe is run: {run}"),
    ".yml": ("is text in YAML, not a checkpoint", "a recipe is run: {run}"),
    ".json": (
        "is JSON, not a checkpoint",
        "give the folder that holds it and the weights",
    ),
    ".onnx": ("is ONNX, which holds no weights by name", "give the model that it was made of"),
    ".h5": ("is HDF5 (Keras, TensorFlow)", "save it from PyTorch as safetensors"),
    ".msgpack": ("holds weights of Flax", "transformers reads it: from_pretrained(from_flax=True)"),
    ".npz": ("is an archive of numpy arrays", "save a state dict as safetensors"),
    ".tflite": ("is TensorFlow Lite", "give the model that it was made of"),
    ".html": ("is a web page or a report", "give the encoder folder of the run"),
    ".md": ("is text, not a checkpoint", "give an encoder folder or a file of weights"),
    ".txt": ("is text, not a checkpoint", "give an encoder folder or a file of weights"),
    ".zip": ("is a zip archive", "unpack it"),
    ".tar": ("is a tar archive", "unpack it"),
    ".gz": ("is compressed with gzip", "unpack it"),
    ".tgz": ("is a tar archive", "unpack it"),
}

_WEIGHTS = ("model", "pytorch_model")
_BESIDE_WEIGHTS = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
_LAYER = re.compile(r"(^|\.)(layers?|blocks?)\.\d+\.")
_START = 512
"""Bytes that say what a file is."""
_LOOKED_AT = 20
"""Files of a folder without an encoder whose headers are read."""


def refuse_foreign(path: Path) -> None:
    """Refuse a file that holds no weights, by what its first bytes and its name say.

    Pickles of protocol 0, which look like text, are none of torch's.

    Raises:
        CheckpointError: As `refuse_pointer`, or it is code, text, an archive or weights of another
            framework.
    """
    refuse_pointer(path)
    if path.suffix.lower() in _SUFFIXES:
        what, hint = _SUFFIXES[path.suffix.lower()]
        raise CheckpointError(f"{path} {what}", hint=hint.format(**_commands(path)))
    _refuse_content(path)


def _refuse_content(path: Path) -> None:
    """Refuse a file by what it holds, whatever it is called.

    Raises:
        CheckpointError: It is text, an archive, zeros, or a checkpoint under the name of another.
    """
    with reading(path) as file:
        start = file.read(_START)
        size = os.fstat(file.fileno()).st_size
    named = path.suffix == ".safetensors"
    if _begins_as_safetensors(start, size):
        if named:
            return
        raise CheckpointError(f"{path} is safetensors", hint=f"call it {path.stem}.safetensors")
    if not start.strip(b"\0"):
        raise CheckpointError(f"{path} begins with zeros", hint="copy or download it again")
    if _is_text(start, whole=len(start) == size):
        json = start.lstrip()[:1] in (b"{", b"[")
        what, hint = _SUFFIXES[".json" if json else ".txt"]
        raise CheckpointError(f"{path} {what}", hint=hint)
    if start[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive", hint="unpack it")
    if named and start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        raise CheckpointError(f"{path} is no safetensors", hint=f"call it {path.stem}.pt")


def _begins_as_safetensors(start: bytes, size: int) -> bool:
    """Return whether a file begins with the length of a header and the header.

    The length may be the first bytes of anything else, of gzip or of a pickle.
    """
    return start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") < size


def _is_text(start: bytes, *, whole: bool) -> bool:
    """Return whether a file begins as text does: UTF-8 or UTF-16, without control characters."""
    try:
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = start[: len(start) // 2 * 2].decode("utf-16")
        else:
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(start, final=whole)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\n\r\f" for character in text)


def _commands(path: Path) -> dict[str, str]:
    return {
        "evaluate": command("evaluate", f"{path}:MyEncoder", out="OUT"),
        "run": command("run", path, out="OUT"),
        "prepare": command("prepare", "generic", path, out="OUT"),
    }


def refuse_pointer(path: Path) -> None:
    """Refuse a file that stands for another, or whose first bytes are of something else.

    Raises:
        CheckpointError: It is a pointer, a broken link, empty, a page, or of another format.
    """
    refuse_broken_link(path)
    try:
        with reading(path) as file:
            start = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not start:
        raise CheckpointError(f"{path} is empty: it has no bytes", hint="copy or download it again")
    if _begins_as_safetensors(start, size):
        return
    lowered = start.lstrip().lower()
    for magic, what, hint in _MAGIC:
        if lowered.startswith(magic):
            raise CheckpointError(f"{path} {what}", hint=hint.format(**_commands(path)))


def refuse_broken_link(path: Path) -> None:
    """Refuse a link to a file that is gone, as in a cache of the hub that was cleaned by halves.

    Raises:
        CheckpointError: It is one.
    """
    if path.is_symlink() and not path.exists():
        raise CheckpointError(
            f"{path} is a link to {path.readlink()}, which does not exist",
            hint="download it again, or copy what the link named",
        )


def no_weights(folder: Path, expected: str) -> CheckpointError:
    """Build the error for a folder without weights, with what can be given instead of it.

    Args:
        folder: It has been looked at.
        expected: Names of the files that are not there.
    """
    names = sorted(folder.iterdir())
    for path in names:
        if path.name.startswith(_WEIGHTS):
            refuse_broken_link(path)
    other = [p for p in names if p.suffix in (".h5", ".msgpack", ".onnx", ".gguf")]
    tensors = [p for p in names if p.suffix in WEIGHT_SUFFIXES and p.name not in _BESIDE_WEIGHTS]
    files = (p for p in tensors[:_LOOKED_AT] if not _is_part(p))
    hint = "an encoder is a folder with config.json and model.safetensors"
    if below := encoders_below(folder):
        more = f" and {len(below) - 4} more" * (len(below) > 4)
        hint = f"encoders lie below it: {', '.join(map(str, below[:4]))}{more}"
    elif file := next(files, None):
        hint = f"give the file itself, such as {file}"
    elif unfinished(folder):
        hint = f"work on it has not come to its end: {command('status', folder)}"
    elif tensors:
        expected = f"{tensors[0].name} has no layers: it is a head, features or the like"
    elif other:
        what, hint = _SUFFIXES.get(other[0].suffix, ("is of another framework", "save safetensors"))
        return CheckpointError(
            f"{folder} holds no weights of PyTorch: {other[0].name} {what}", hint=hint
        )
    return CheckpointError(f"{folder} holds no weights of an encoder: {expected}", hint=hint)


def encoders_below(folder: Path) -> list[Path]:
    """Return the folders with an encoder at most three levels down, the nearest first."""
    found: dict[Path, None] = {}
    for level in ("*", "*/*", "*/*/*"):
        for path in sorted(folder.glob(f"{level}/{CONFIG_NAME}")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if not hidden and any(p.name.startswith(_WEIGHTS) for p in path.parent.iterdir()):
                found[path.parent] = None
    return list(found)


def _is_part(path: Path) -> bool:
    """Return whether a file surely holds no whole encoder: no tensor of it is of a layer."""
    if path.suffix != ".safetensors":
        return False
    try:
        entries, _ = read_header(path)
    except CheckpointError:
        return False  # who opens it is told what is wrong with it
    return not any(map(_LAYER.search, entries))
