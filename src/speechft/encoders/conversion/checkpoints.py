"""Open a checkpoint of any known format: which tensors it has, what they are, what is around them.

| format            | what it is                                                           |
|-------------------|----------------------------------------------------------------------|
| hf                | folder with ``config.json`` and safetensors or ``pytorch_model.bin``  |
| tensors           | a bare ``.safetensors`` file, a state dict, below any key (Lightning's|
|                   | ``state_dict``, ``model_state_dict``, ...) too, or a live module      |
| s3prl             | ``{task_cfg, model_cfg, model_weight, dictionaries_symbols}``         |
| s3prl-downstream  | ``{Upstream, Downstream, Featurizer, ...}``, the runner's ``.ckpt``   |
| wavlm, fairseq    | ``{cfg, model}`` or ``{args, model}``                                 |
| spin              | SPIN's ``{state_dict}`` of Lightning                                  |
| decoar2           | ``{model}`` with DeCoAR 2.0's names                                   |
| delta             | a task vector made by ``speechft delta``                              |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.encoders.conversion import configs
from speechft.encoders.conversion.adapters import adapter_in, find_adapter
from speechft.encoders.conversion.delta_tensors import DELTA_KEY, delta_tensors, read_details
from speechft.encoders.conversion.foreign import (
    no_weights,
    refuse_broken_link,
    refuse_foreign,
    refuse_pointer,
)
from speechft.encoders.conversion.keys import (
    choose_encoder,
    encoder_prefixes,
    from_torchaudio,
    is_head,
    is_pretraining_head,
    is_s3prl,
    is_torchaudio,
    to_hugging_face,
)
from speechft.encoders.conversion.layouts import find_weights
from speechft.encoders.conversion.safe_pickle import load_pickle
from speechft.encoders.conversion.schema import check_settings
from speechft.encoders.conversion.tensors import Tensor, memory_tensor, safetensors_tensors
from speechft.encoders.families import FAMILIES, recognise
from speechft.encoders.families.tables import normalise_weight_norm
from speechft.errors import CheckpointError
from speechft.storage.files import (
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_NAME,
    indexed_files,
    read_json,
    read_processor,
)
from speechft.storage.headers import read_header

BIN_NAME = "pytorch_model.bin"
BIN_INDEX_NAME = "pytorch_model.bin.index.json"

_ENCODER_ROOTS = frozenset(root for family in FAMILIES.values() for root in family.roots)
_BARE_MODELS = frozenset(
    name.replace("-", "_") for name, family in FAMILIES.items() if family.takes_normalized
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is open: its tensors are read when asked for."""

    source: str
    """Where it comes from, for messages."""
    format: str
    """One of the formats above."""
    naming: str
    """``hf``, ``s3prl``, ``torchaudio`` or ``unknown``."""
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
    others: tuple[str, ...] = ()
    """Keys and beginnings of names of further encoders in the file: teachers, running averages."""
    adapter: str | None = None
    """The adapter that is on it, see `speechft.encoders.conversion.adapted`."""

    def settings(self) -> dict[str, Any] | None:
        """Return the configuration together with what the folder says about the audio."""
        if self.config is None or self.processor is None:
            return self.config
        told = {"do_normalize": self.processor.get("do_normalize")}
        if self.processor.get("sampling_rate") is not None:
            told["sampling_rate"] = self.processor["sampling_rate"]
        return self.config | told

    def by_name(self) -> dict[str, Tensor]:
        """Return the tensors of encoder and pre-training heads by their Hugging Face names."""
        return {new: self.tensors[old] for old, new in self.names.items()}

    def heads(self) -> list[str]:
        """Return the names of tensors that belong to task heads."""
        return [name for name in self._outside() if is_head(name)]

    def not_understood(self) -> list[str]:
        """Return the names of tensors of neither an encoder nor a head that is known."""
        return [name for name in self._outside() if not is_head(name)]

    def _outside(self) -> list[str]:
        copies = tuple(prefix for prefix in self.others if prefix.endswith("."))
        return [n for n in self.tensors if n not in self.names and not n.startswith(copies)]


def open_checkpoint(source: Any, role: str = "checkpoint") -> Checkpoint:
    """Open a path, a state dict or a live module; verbs do it by `speechft.encoders.opening`.

    Args:
        source: A folder, a file, a mapping from names to tensors, or a ``torch.nn.Module``.
        role: What it is called in messages when it has no path: ``base`` or ``tuned``.

    Raises:
        CheckpointError: It does not exist, is an adapter, cannot be read safely, or holds no
            weights.
    """
    if isinstance(source, Mapping):
        named = f"the {role} state dict"
        return _identify(named, "tensors", _wrap_all(source), {}, None)
    if hasattr(source, "state_dict"):
        settings: Any = getattr(source, "config", None)
        config = settings.to_dict() if hasattr(settings, "to_dict") else None
        tensors = _wrap_all(source.state_dict())
        return _identify(f"the {role} module", "tensors", tensors, {}, config)
    path = Path(source)
    refuse_broken_link(path)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist",
            hint="give an encoder folder with config.json and model.safetensors, or a .pt, .ckpt "
            "or .safetensors file",
        )
    adapter = find_adapter(path)
    if adapter is not None:
        raise adapter.refusal()
    if path.is_dir():
        return _open_folder(path)
    refuse_foreign(path)
    if path.suffix == ".safetensors":
        _, metadata = read_header(path)
        if DELTA_KEY in metadata:
            return _open_delta(path, metadata)
        return _identify(str(path), "tensors", safetensors_tensors([path]), {}, None, files=(path,))
    return _open_pickle(path)


def _wrap_all(state: Mapping[str, Any]) -> dict[str, Tensor]:
    if not state:
        raise CheckpointError("the state dict is empty")
    broken = [name for name in map(str, state) if not name.isascii() and not _is_written(name)]
    if broken:
        raise CheckpointError(f"{broken[0]!r} is no name of a tensor")
    return {str(name): memory_tensor(str(name), value) for name, value in state.items()}


def _is_written(name: str) -> bool:
    return name.encode("utf-8", "replace").decode() == name


def _wrap(state: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the tensors of what a file holds; counters and copies that stand among them go."""
    tensors = {str(n): v for n, v in state.items() if hasattr(v, "dtype")}
    if not tensors:
        held = ", ".join(map(str, state))[:200] or "nothing"
        raise CheckpointError(f"{source} holds no tensors, but {held}")
    return _wrap_all(tensors)


def _open_folder(folder: Path) -> Checkpoint:
    for name in (CONFIG_NAME, WEIGHTS_NAME, INDEX_NAME, BIN_NAME, BIN_INDEX_NAME):
        refuse_broken_link(folder / name)
    config = _folder_config(folder)
    files = _weight_files(folder)
    for file in files:
        if file.exists() or file.is_symlink():
            refuse_foreign(file)
    if files[0].suffix == ".safetensors":
        tensors = safetensors_tensors(files)
    else:
        tensors = {}
        for file in files:
            tensors.update(_wrap(load_pickle(file), str(file)))
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


def _folder_config(folder: Path) -> dict[str, Any] | None:
    path = folder / CONFIG_NAME
    if not path.is_file():
        return None
    refuse_pointer(path)
    config = read_json(path)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not hold a configuration")
    return configs.checked(config, path)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of weights of a folder, safetensors where there are both.

    Raises:
        CheckpointError: There are none, or an index lists fewer shards than their names count.
    """
    for whole, index in ((WEIGHTS_NAME, INDEX_NAME), (BIN_NAME, BIN_INDEX_NAME)):
        if (folder / whole).is_file():
            return (folder / whole,)
        if (folder / index).is_file():
            return tuple(_shards(folder / index))
    raise no_weights(folder, f"neither {WEIGHTS_NAME} nor {BIN_NAME}")


def _shards(index: Path) -> list[Path]:
    refuse_pointer(index)
    names = [path.name for path in indexed_files(index)]
    counted = [m for name in names if (m := re.search(r"-(\d+)-of-(\d+)\.\w+$", name))]
    if counted and len(counted) < int(counted[0][2]):
        there = {int(match[1]) for match in counted}
        gone = [n for n in range(1, int(counted[0][2]) + 1) if n not in there]
        raise CheckpointError(
            f"{index} lists {len(names)} of {int(counted[0][2])} shards; it lacks number "
            f"{', '.join(map(str, gone[:5]))}",
            hint="it would be half a model: download the index again",
        )
    missing = [name for name in names if not (index.parent / name).exists()]
    for name in missing:
        refuse_broken_link(index.parent / name)
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks shards that its index lists: {', '.join(missing[:5])}",
            hint="copy or download them",
        )
    return [index.parent / name for name in names]


def _open_delta(path: Path, metadata: Mapping[str, str]) -> Checkpoint:
    details = read_details(metadata, path)
    tensors = delta_tensors(safetensors_tensors([path]), path)
    names = {name: name for name in tensors}
    family, config = details.get("family"), details.get("config")
    return Checkpoint(
        str(path), "delta", "hf", family, config, tensors, names, files=(path,), content=details
    )


def _open_pickle(path: Path) -> Checkpoint:
    layout = find_weights(load_pickle(path), path)
    return _identify(
        str(path),
        layout.kind,
        _wrap(layout.weights, str(path)),
        layout.content,
        None,
        files=(path,),
        weights_key=layout.key,
        others=layout.others,
    )


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
    folder = where.get("folder") or next((f.parent for f in where.get("files", ())), None)
    adapter = adapter_in(source, tensors, folder)
    if adapter is not None:
        raise adapter.refusal()
    prefix, copies = choose_encoder(encoder_prefixes(tensors), source)
    where |= {"content": content, "others": (*where.get("others", ()), *copies)}
    if prefix is None:
        strip = "model." if all(n.startswith("model.") for n in tensors) else ""
        names = {n: normalise_weight_norm(n.removeprefix(strip)) for n in tensors}
        family = str(config["model_type"]) if config and config.get("model_type") else None
        return Checkpoint(source, kind, "unknown", family, config, tensors, names, **where)
    deeper = [p for p in copies if p.startswith(prefix)]
    inner = {
        n: n.removeprefix(prefix)
        for n in tensors
        if n.startswith(prefix) and not n.startswith(tuple(deeper))
    }
    naming = "s3prl" if is_s3prl(inner.values()) else "hf"
    if is_torchaudio(inner.values()):
        naming = "torchaudio"
        inner = {name: from_torchaudio(own) for name, own in inner.items()}
    guessed = recognise({*inner.values(), *(n for n in tensors if not n.startswith(tuple(copies)))})
    family = None if guessed is None else guessed.name
    if config and config.get("model_type"):
        family = str(config["model_type"])
    names = {}
    for name in tensors:
        if copies and name.startswith(tuple(p for p in copies if p)):
            continue
        new = _canonical(name, inner.get(name), naming, family, prefix)
        if new is not None:
            names[name] = new
    if len(set(names.values())) != len(names):
        double = sorted(n for n, count in Counter(names.values()).items() if count > 1)
        raise CheckpointError(f"{source}: tensors occur twice under {', '.join(double[:5])}")
    if config is None and configs.describes_model(content):
        own = {n: tensors[o] for o, n in names.items()}
        try:
            config = configs.to_hugging_face(content, family, own)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error.message}", hint=error.hint) from None
        check_settings(config, source)
        family = family or str(config["model_type"])
    where |= {"prefix": prefix}
    return Checkpoint(source, kind, naming, family, config, tensors, names, **where)


def _canonical(
    name: str, inner: str | None, naming: str, family: str | None, prefix: str
) -> str | None:
    """Return the Hugging Face name of one tensor, or None when it belongs to a task head.

    What stands below the name that Hugging Face gives a bare model belongs to the model, known or
    not.
    """
    if inner is None:
        return name if naming != "s3prl" and is_pretraining_head(name) else None
    if naming == "s3prl":
        return to_hugging_face(inner, family) or inner
    is_own = prefix.removesuffix(".").rpartition(".")[2] in _BARE_MODELS
    if inner.split(".")[0] in _ENCODER_ROOTS or is_pretraining_head(inner) or is_own:
        return normalise_weight_norm(inner)
    return None
