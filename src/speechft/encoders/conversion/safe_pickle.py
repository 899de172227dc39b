"""Read ``.pt``, ``.ckpt`` and ``.bin`` files without running anything that is written in them.

``torch.load(weights_only=True)`` builds tensors and plain containers only. Real checkpoints also
hold settings objects of fairseq, omegaconf and Lightning; each of those names is mapped to an inert
stand-in that stores what it is given and does nothing. Any other name is refused.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechft.encoders.conversion.pickle_scan import scan
from speechft.errors import CheckpointError
from speechft.storage.disk import reading


class Inert:
    """Stands in for a class that a checkpoint names: keeps arguments and state, runs nothing."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments = arguments
        self.__dict__.update(keywords)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


INERT_CLASSES: tuple[str, ...] = (
    "argparse.Namespace",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    "builtins.tuple",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "fairseq.data.dictionary.Dictionary",
    "fairseq.dataclass.constants.ChoiceEnum",
    "fairseq.dataclass.constants.StrEnum",
    "fairseq.meters.AverageMeter",
    "fairseq.meters.TimeMeter",
    "fairseq.meters.StopwatchMeter",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.dtypes.Float32DType",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Int64DType",
    "numpy.ndarray",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.EnumNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "typing.Any",
)
"""Names of classes and functions that known checkpoints hold and that nothing needs."""

INERT_MAPPINGS: tuple[str, ...] = (
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
"""Names of dict subclasses that known checkpoints hold, read as an OrderedDict."""


def load_pickle(path: Path) -> Any:
    """Load a torch file with ``weights_only=True``, tensors memory-mapped where the format allows.

    Raises:
        CheckpointError: The file is missing or truncated, or asks for more than stored weights.
    """
    import torch

    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, or is no file")
    try:
        scan(path)
    except (ValueError, OSError) as error:
        raise _refusal(path, error) from None
    allowed: list[Any] = [(Inert, name) for name in INERT_CLASSES]
    allowed += [(OrderedDict, name) for name in INERT_MAPPINGS]
    allowed += [(_empty_dict, "collections.defaultdict")]
    with torch.serialization.safe_globals(allowed):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
        except Exception as error:  # the unpickler raises many kinds for damaged files
            raise _refusal(path, error) from None


MAX_SETTINGS, MAX_SETTINGS_DEPTH = 300_000, 100
"""Values that the settings in a checkpoint may have, and how deep they may be nested."""


def plain(value: Any) -> Any:
    """Return settings as dicts, lists and scalars: stand-ins are opened, omegaconf's included.

    What is none of these becomes its type's name in angle brackets.

    Raises:
        CheckpointError: They hold themselves, or have no end for other reasons.
    """
    left = MAX_SETTINGS

    def opened(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_SETTINGS_DEPTH:
            raise CheckpointError(
                "the settings in the checkpoint are nested without end",
                hint="it is damaged or made to do harm; nothing was executed",
            )
        if isinstance(value, Inert):
            state = vars(value)
            for name in ("_content", "_val"):
                if name in state:
                    return opened(state[name], depth + 1)
            value = {key: item for key, item in state.items() if key != "arguments"}
        if isinstance(value, Mapping):
            return {_text(str(key)): opened(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set):
            return [opened(item, depth + 1) for item in value]
        if isinstance(value, str):
            return _text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        return f"<{type(value).__name__}>"

    return opened(value, 0)


def _text(value: str) -> str:
    """Return text that can be written: halves of surrogate pairs become question marks."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _is_zip(path: Path) -> bool:
    with reading(path) as file:
        return file.read(4) == b"PK\x03\x04"


def _refusal(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    wanted = re.search(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)", text)
    if wanted:
        return CheckpointError(
            f"{path} is a pickle that asks for {wanted.group(1)!r}; nothing was executed",
            hint="only stored weights are read; if you trust the file, save its state dict as "
            "safetensors where it was made",
        )
    inner = re.search(r"WeightsUnpickler error: (.*)", text)
    first = text.splitlines()[0] if text else type(error).__name__
    reason = (inner.group(1) if inner else first.removesuffix(".")) or type(error).__name__
    if "weights_only" in reason:  # torch's advice there is to load without protection
        reason = "it is not a pickle of weights"
    return CheckpointError(
        f"{path} is not a readable torch checkpoint: {reason[:200]}",
        hint="it may be truncated or of another format; copy or download it again",
    )
