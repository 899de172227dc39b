"""Where the weights are in what torch saved: whole, or by keys of s3prl, fairseq, Lightning, ..."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechft.encoders.conversion import configs
from speechft.encoders.conversion.keys import encoder_prefixes
from speechft.encoders.conversion.safe_pickle import plain
from speechft.encoders.families import recognise
from speechft.errors import CheckpointError

_KINDS = {"model_weight": "s3prl", "Upstream": "s3prl-downstream", "state_dict": "spin"}
_ORDER = (*_KINDS, "model", "model_state_dict", "module", "student", "net", "encoder", "weights")
"""Keys of weights, the first that holds an encoder is read; others are looked through after it."""

_DEPTH = 3


@dataclass(frozen=True)
class Layout:
    """Weights in a file, and what is around them."""

    weights: Mapping[str, Any]
    key: str | None
    """Key of the weights, ``a.b`` where they lie deeper; None where they are the whole file."""
    kind: str
    """See `speechft.encoders.conversion.checkpoints`."""
    content: dict[str, Any] = field(default_factory=dict)
    """What else describes the model, without tensors."""
    others: tuple[str, ...] = ()
    """Further keys that hold encoders, which are left out."""


def find_weights(loaded: Any, path: Path) -> Layout:
    """Return where the weights are in what a file of torch holds.

    Args:
        loaded: What it holds.
        path: For messages.

    Raises:
        CheckpointError: There are none, or they are several and none is known to be meant.
    """
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, expected a checkpoint")
    places = {".".join(keys): held for keys, held in _mappings(loaded, ())}
    named = [key for key in _ORDER if isinstance(loaded.get(key), Mapping)]
    with_encoder = {key for key, held in places.items() if encoder_prefixes(held)}
    chosen = next((key for key in named if key in with_encoder), None)
    if chosen is None and "" in with_encoder:
        chosen = ""
    if chosen is None and with_encoder:
        below = sorted(with_encoder, key=lambda key: (_rank(key), key.count("."), key))
        if len(below) > 1 and _rank(below[0]) == _rank(below[1]):
            raise CheckpointError(
                f"{path} holds several encoders, under {', '.join(below)}",
                hint="save the one that is meant as its own file",
            )
        chosen = below[0]
    if chosen is None:
        chosen = next((key for key in named if key in places), None)
    if chosen is None:
        wrong = next((key for key in _KINDS if key in loaded), None)
        if wrong is not None:
            held = type(loaded[wrong]).__name__
            raise CheckpointError(f"{path}: {wrong!r} holds {held}, expected weights")
        if "" not in places:
            raise CheckpointError(
                f"{path} has none of the known layouts; its keys: {', '.join(map(str, loaded))}",
                hint=f"known are {', '.join(_ORDER)} or a plain state dict",
            )
        chosen = ""
    others = tuple(sorted(with_encoder - {chosen, ""}))
    if chosen == "":
        return Layout(loaded, None, "tensors", others=others)
    weights = places[chosen]
    kind = _kind(loaded, chosen, weights)
    kept = ("Args",) if kind in ("s3prl-downstream", "spin") else configs.KEPT_KEYS
    content = {k: plain(v) for k, v in loaded.items() if k != chosen and k in kept}
    if kind == "fairseq" and (symbols := _symbols(plain(loaded.get("task_state")))):
        content["dictionaries_symbols"] = symbols
    return Layout(weights, chosen, kind, content, others)


def _mappings(
    held: Mapping[Any, Any], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield what holds tensors, by its keys; what lies among the tensors of another is not it."""
    is_state = any(hasattr(value, "dtype") for value in held.values())
    if is_state:
        yield above, {str(name): value for name, value in held.items()}
    if len(above) < _DEPTH:
        for key, value in held.items():
            if isinstance(value, Mapping):
                yield from _mappings(value, (*above, str(key)))


def _rank(key: str) -> int:
    last = key.rpartition(".")[2]
    return _ORDER.index(last) if last in _ORDER else len(_ORDER)


def _kind(loaded: Mapping[str, Any], key: str, weights: Mapping[str, Any]) -> str:
    if key in ("model_weight", "Upstream"):
        return _KINDS[key]
    if key == "state_dict":  # any Lightning; SPIN keeps its encoder below this name
        return "spin" if "encoder.model." in encoder_prefixes(weights) else "tensors"
    if key != "model":
        return "tensors"
    family, told = recognise(weights), "cfg" in loaded or "args" in loaded
    if family is None:
        return "fairseq"
    return family.file_format if told else family.bare_format


def _symbols(task_state: Any) -> list[list[str]]:
    """Return the symbols of fairseq's dictionaries, which HuBERT's label embeddings belong to."""
    found = task_state.get("dictionaries") if isinstance(task_state, Mapping) else None
    if not isinstance(found, list):
        return []
    return [list(d["symbols"]) for d in found if isinstance(d, Mapping) and "symbols" in d]
