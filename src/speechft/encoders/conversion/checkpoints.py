"""Open a checkpoint of any known format: which tensors it has, what they are, what is around them.

| format            | what it is                                                           |
|-------------------|----------------------------------------------------------------------|
| hf                | folder with ``config.json`` and safetensors or ``pytorch_model.bin``  |
| tensors           | a bare ``.safetensors`` file, a state dict or a live module           |
| s3prl             | ``{task_cfg, model_cfg, model_weight, dictionaries_symbols}``         |
| s3prl-downstream  | ``{Upstream, Downstream, Featurizer, ...}``, the runner's ``.ckpt``   |
| wavlm, fairseq    | ``{cfg, model}`` or ``{args, model}``                                 |
| spin              | Lightning's ``{state_dict}``                                          |
| decoar2           | ``{model}`` with DeCoAR 2.0's names                                   |
| delta             | a task vector made by ``speechft delta``                              |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.encoders.conversion import configs
from speechft.encoders.conversion.delta_tensors import DELTA_KEY, delta_tensors, read_details
from speechft.encoders.conversion.keys import (
    encoder_prefix,
    is_pretraining_head,
    is_s3prl,
    to_hugging_face,
)
from speechft.encoders.conversion.safe_pickle import load_pickle, plain
from speechft.encoders.conversion.schema import check_settings
from speechft.encoders.conversion.tensors import Tensor, memory_tensor, safetensors_tensors
from speechft.encoders.families import FAMILIES, recognise
from speechft.encoders.families.tables import normalise_weight_norm
from speechft.errors import CheckpointError
from speechft.files import (
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_NAME,
    indexed_files,
    read_json,
    read_processor,
    weight_files,
)
from speechft.headers import read_header

BIN_NAME = "pytorch_model.bin"
BIN_INDEX_NAME = "pytorch_model.bin.index.json"

_ENCODER_ROOTS = frozenset(root for family in FAMILIES.values() for root in family.roots)
_WEIGHT_KEYS = {"model_weight": "s3prl", "Upstream": "s3prl-downstream", "state_dict": "spin"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is open: its tensors are read when asked for."""

    source: str
    """Where it comes from, for messages."""
    format: str
    """One of the formats above."""
    naming: str
    """``hf``, ``s3prl`` or ``unknown``."""
    family: str | None
    """Its ``model_type``; None if unclear."""
    config: dict[str, Any] | None
    """Configuration in Hugging Face terms."""
    tensors: dict[str, Tensor]
    """All tensors by the name that they have in the file, in its order."""
    names: dict[str, str]
    """Name in the file -> Hugging Face name without prefix; names of task heads are left out."""
    files: tuple[Path, ...] = ()
    """The files that the weights are in."""
    folder: Path | None = None
    """The Hugging Face folder, where it is one."""
    processor: dict[str, Any] | None = None
    """What the folder says about the audio it takes, see `read_processor`."""
    content: dict[str, Any] = field(default_factory=dict)
    """What else an s3prl file holds, by key, without tensors."""
    weights_key: str | None = None
    """Key of the weights in the file."""
    prefix: str | None = None
    """What stands before every name of the encoder, such as ``hubert.``; None if unknown."""

    def settings(self) -> dict[str, Any] | None:
        """Return the configuration together with whether the audio is normalised."""
        if self.config is None or self.processor is None:
            return self.config
        return self.config | {"do_normalize": self.processor.get("do_normalize")}

    def by_name(self) -> dict[str, Tensor]:
        """Return the tensors of encoder and pre-training heads by their Hugging Face names."""
        return {new: self.tensors[old] for old, new in self.names.items()}

    def heads(self) -> list[str]:
        """Return the names of tensors that belong to task heads."""
        return [name for name in self.tensors if name not in self.names]


def open_checkpoint(source: Any, role: str = "checkpoint") -> Checkpoint:
    """Open a path, a state dict or a live module.

    Args:
        source: A folder, a file, a mapping from names to tensors, or a ``torch.nn.Module``.
        role: What it is called in messages when it has no path: ``base`` or ``tuned``.

    Raises:
        CheckpointError: It does not exist, cannot be read safely, or holds no weights.
    """
    if isinstance(source, Mapping):
        return _identify(f"the {role} state dict", "tensors", _wrap(source), {}, None)
    if hasattr(source, "state_dict"):
        settings: Any = getattr(source, "config", None)
        config = settings.to_dict() if hasattr(settings, "to_dict") else None
        tensors = _wrap(source.state_dict())
        return _identify(f"the {role} module", "tensors", tensors, {}, config)
    path = Path(source)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist",
            hint="give an encoder folder with config.json and model.safetensors, or a .pt, .ckpt "
            "or .safetensors file",
        )
    if path.suffix == ".safetensors":
        _, metadata = read_header(path)
        if DELTA_KEY in metadata:
            return _open_delta(path, metadata)
        return _identify(str(path), "tensors", safetensors_tensors([path]), {}, None, files=(path,))
    return _open_pickle(path)


def _wrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    if not state:
        raise CheckpointError("the state dict is empty")
    broken = [name for name in map(str, state) if not name.isascii() and not _is_written(name)]
    if broken:
        raise CheckpointError(f"{broken[0]!r} is no name of a tensor")
    return {str(name): memory_tensor(str(name), value) for name, value in state.items()}


def _is_written(name: str) -> bool:
    return name.encode("utf-8", "replace").decode() == name


def _open_folder(folder: Path) -> Checkpoint:
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else None
    if config is not None and not isinstance(config, dict):
        raise CheckpointError(f"{folder / CONFIG_NAME} does not hold a configuration")
    files: tuple[Path, ...]
    if (folder / WEIGHTS_NAME).is_file() or (folder / INDEX_NAME).is_file():
        files = tuple(weight_files(folder))
        tensors = safetensors_tensors(files)
    elif (folder / BIN_NAME).is_file() or (folder / BIN_INDEX_NAME).is_file():
        files = (folder / BIN_NAME,)
        if not files[0].is_file():
            files = tuple(indexed_files(folder / BIN_INDEX_NAME))
        tensors = {}
        for file in files:
            tensors.update(_wrap(load_pickle(file)))
    else:
        raise CheckpointError(
            f"{folder} holds no weights: neither {WEIGHTS_NAME} nor {BIN_NAME}",
            hint=_similar_files(folder),
        )
    return _identify(
        str(folder),
        "hf",
        tensors,
        {},
        config,
        files=files,
        folder=folder,
        processor=read_processor(folder),
    )


def _open_delta(path: Path, metadata: Mapping[str, str]) -> Checkpoint:
    details = read_details(metadata, path)
    tensors = delta_tensors(safetensors_tensors([path]), path)
    names = {name: name for name in tensors}
    family, config = details.get("family"), details.get("config")
    return Checkpoint(
        str(path), "delta", "hf", family, config, tensors, names, files=(path,), content=details
    )


def _similar_files(folder: Path) -> str:
    found = [p.name for p in sorted(folder.iterdir()) if p.suffix in (".pt", ".ckpt", ".bin")]
    if found:
        return f"give the file itself, such as {folder / found[0]}"
    return "an encoder is a folder with config.json and model.safetensors"


def _open_pickle(path: Path) -> Checkpoint:
    loaded = load_pickle(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, expected a checkpoint")
    key, kind = _weights_key(loaded)
    if key is None:
        if any(isinstance(v, Mapping) for v in loaded.values()):
            raise CheckpointError(
                f"{path} has none of the known layouts; its keys: {', '.join(map(str, loaded))}",
                hint=f"known are {', '.join([*_WEIGHT_KEYS, 'model'])} or a plain state dict",
            )
        return _identify(str(path), "tensors", _wrap(loaded), {}, None, files=(path,))
    weights = loaded[key]
    if not isinstance(weights, Mapping):
        raise CheckpointError(f"{path}: {key!r} holds {type(weights).__name__}, expected weights")
    kept = ("Args",) if kind in ("s3prl-downstream", "spin") else configs.KEPT_KEYS
    content = {k: plain(v) for k, v in loaded.items() if k != key and k in kept}
    if kind == "fairseq" and (symbols := _symbols(plain(loaded.get("task_state")))):
        content["dictionaries_symbols"] = symbols
    return _identify(str(path), kind, _wrap(weights), content, None, files=(path,), weights_key=key)


def _symbols(task_state: Any) -> list[list[str]]:
    """Return the symbols of fairseq's dictionaries, which HuBERT's label embeddings belong to."""
    found = task_state.get("dictionaries") if isinstance(task_state, Mapping) else None
    if not isinstance(found, list):
        return []
    return [list(d["symbols"]) for d in found if isinstance(d, Mapping) and "symbols" in d]


def _weights_key(loaded: Mapping[str, Any]) -> tuple[str | None, str]:
    for key, kind in _WEIGHT_KEYS.items():
        if key in loaded:
            return key, kind
    if isinstance(loaded.get("model"), Mapping):
        family, told = recognise(loaded["model"]), "cfg" in loaded or "args" in loaded
        if family is None:
            return "model", "fairseq"
        return "model", family.file_format if told else family.bare_format
    return None, "tensors"


def _identify(
    source: str,
    kind: str,
    tensors: dict[str, Tensor],
    content: dict[str, Any],
    config: dict[str, Any] | None,
    **where: Any,
) -> Checkpoint:
    """Find prefix, naming and family, and name every tensor."""
    if config is not None:
        check_settings(config, source)
    prefix = encoder_prefix(tensors)
    if prefix is None:
        strip = "model." if all(n.startswith("model.") for n in tensors) else ""
        names = {n: normalise_weight_norm(n.removeprefix(strip)) for n in tensors}
        family = str(config["model_type"]) if config and config.get("model_type") else None
        return Checkpoint(
            source, kind, "unknown", family, config, tensors, names, content=content, **where
        )
    inner = {n: n.removeprefix(prefix) for n in tensors if n.startswith(prefix)}
    naming = "s3prl" if is_s3prl(inner.values()) else "hf"
    guessed = recognise({*inner.values(), *tensors})
    family = None if guessed is None else guessed.name
    if config and config.get("model_type"):
        family = str(config["model_type"])
    names = {}
    for name in tensors:
        new = _canonical(name, inner.get(name), naming, family)
        if new is not None:
            names[name] = new
    if len(set(names.values())) != len(names):
        double = sorted(n for n, count in Counter(names.values()).items() if count > 1)
        raise CheckpointError(f"{source}: tensors occur twice under {', '.join(double[:5])}")
    if config is None and configs.describes_model(content):
        config = configs.to_hugging_face(content, family, {n: tensors[o] for o, n in names.items()})
        check_settings(config, source)
        family = family or str(config["model_type"])
    where |= {"content": content, "prefix": prefix}
    return Checkpoint(source, kind, naming, family, config, tensors, names, **where)


def _canonical(name: str, inner: str | None, naming: str, family: str | None) -> str | None:
    """Return the Hugging Face name of one tensor, or None when it belongs to a task head."""
    if inner is None:
        return name if naming == "hf" and is_pretraining_head(name) else None
    if naming == "s3prl":
        return to_hugging_face(inner, family) or inner
    if inner.split(".")[0] in _ENCODER_ROOTS or is_pretraining_head(inner):
        return normalise_weight_norm(inner)
    return None
