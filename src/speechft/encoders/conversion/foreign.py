"""Files and folders that hold no weights that can be read: what they are, and what helps."""

from __future__ import annotations

from pathlib import Path

from speechft.commands import command
from speechft.errors import CheckpointError
from speechft.storage.disk import reading

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
    (b"\x89hdf", "is HDF5 (Keras, TensorFlow)", "save it from PyTorch as safetensors"),
    (b"gguf", "is GGUF, for llama.cpp", "give the model that it was made of"),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it"),
    (b"\x93numpy", "is a numpy array", "save a state dict as safetensors"),
    (b"riff", "is a recording", "give it to extract, behind the encoder"),
    (b"flac", "is a recording", "give it to extract, behind the encoder"),
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


def refuse_foreign(path: Path) -> None:
    """Refuse a file that holds no weights, by what its first bytes and its name say.

    Raises:
        CheckpointError: As `refuse_pointer`, or it is code, text, an archive or weights of another
            framework.
    """
    refuse_pointer(path)
    if path.suffix.lower() in _SUFFIXES:
        what, hint = _SUFFIXES[path.suffix.lower()]
        raise CheckpointError(f"{path} {what}", hint=hint.format(**_commands(path)))


def _commands(path: Path) -> dict[str, str]:
    return {
        "evaluate": command("evaluate", f"{path}:MyEncoder", out="OUT"),
        "run": command("run", path, out="OUT"),
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
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not start:
        raise CheckpointError(f"{path} is empty: it has no bytes", hint="copy or download it again")
    lowered = start.lstrip().lower()
    for magic, what, hint in _MAGIC:
        if lowered.startswith(magic):
            raise CheckpointError(f"{path} {what}", hint=hint)


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
        if path.name.startswith(("model", "pytorch_model")):
            refuse_broken_link(path)
    files = [p for p in names if p.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".bin")]
    files = [p for p in files if p.name not in ("optimizer.pt", "scheduler.pt", "rng_state.pth")]
    below = sorted({p.parent for p in folder.glob("*/config.json")})
    other = [p for p in names if p.suffix in (".h5", ".msgpack", ".onnx", ".gguf")]
    if files:
        hint = f"give the file itself, such as {files[0]}"
    elif below:
        hint = f"encoders lie below it: {', '.join(map(str, below[:4]))}"
    elif other:
        what, hint = _SUFFIXES.get(other[0].suffix, ("is of another framework", "save safetensors"))
        return CheckpointError(
            f"{folder} holds no weights of PyTorch: {other[0].name} {what}", hint=hint
        )
    else:
        hint = "an encoder is a folder with config.json and model.safetensors"
    return CheckpointError(f"{folder} holds no weights: {expected}", hint=hint)
