"""A base with an adapter on it, read like any checkpoint: computed piece by piece, kept nowhere."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from speechft.encoders.conversion.adapter_settings import Lora, read_lora
from speechft.encoders.conversion.adapters import ADAPTER_NAME, Adapter
from speechft.encoders.conversion.checkpoints import Checkpoint
from speechft.encoders.conversion.keys import is_head
from speechft.encoders.conversion.safe_pickle import load_pickle
from speechft.encoders.conversion.tensors import (
    FLOAT_BYTES,
    ArrayTensor,
    Buffer,
    Tensor,
    memory_tensor,
    numel,
    safetensors_tensors,
)
from speechft.encoders.families.tables import normalise_weight_norm
from speechft.errors import CheckpointError
from speechft.storage.headers import read_header

BASE_KEY = "speechft_base"
"""In the metadata of an adapter's weights: what `weights_digest` says of the base it is for."""

PREFIX = "base_model.model."
"""What PEFT puts before the names of the model that it adapts."""

_ROWS = 32
"""Rows that are computed at once, counted from the first: a piece has the same bits whatever
piece it is read in."""
_SAMPLE = 1024
"""Entries of each matrix that tell one base from another."""

_PARTS = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.(?P<leaf>weight|bias))?"
)
_WRAPPED = re.compile(r"\.base_layer(?=\.)|\.modules_to_save(?:\.default)?(?=\.)")


@dataclass
class AdaptedTensor:
    """A matrix with an update of low rank: W + s B A, with magnitudes m (W + s B A) / |W + s B A|.

    Rows are outputs; a kernel of a convolution counts as one row an output. Computed in float64
    and rounded once.
    """

    name: str
    base: Tensor
    down: Tensor
    """A, (r, in)."""
    up: Tensor
    """B, (out, r)."""
    scaling: float
    magnitudes: Tensor | None = None
    """m, (out,); of DoRA."""
    dtype: str = field(init=False)
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = self.base.shape
        self.dtype = "F64" if self.base.dtype == "F64" else "F32"

    @property
    def nbytes(self) -> int:
        """Bytes that it would take."""
        return numel(self.base) * FLOAT_BYTES[self.dtype]

    def raw(self, start: int, stop: int) -> Buffer:
        """Return bytes of it, in its type."""
        width = FLOAT_BYTES[self.dtype]
        first, last = start // width, -(-stop // width)
        values = np.empty(last - first, np.float64 if self.dtype == "F64" else np.float32)
        self.read(first, values)
        return values.view(np.uint8)[start - first * width : stop - first * width]

    def read(self, start: int, out: Buffer) -> None:
        """Fill ``out`` with the elements from ``start`` on."""
        width = max(numel(self.base) // max(self.shape[0], 1), 1)
        down = _wide(self.down, 0, numel(self.down)).reshape(-1, width)
        step, done = _ROWS * width, 0
        while done < out.size:
            block = (start + done) // step
            rows = self._rows(block * _ROWS, min((block + 1) * _ROWS, self.shape[0]), down)
            inside = start + done - block * step
            part = rows.reshape(-1)[inside : inside + out.size - done]
            out[done : done + part.size] = part
            done += part.size

    def held(self) -> ArrayTensor:
        """Return it in memory."""
        data = self.raw(0, self.nbytes).view(np.float64 if self.dtype == "F64" else np.float32)
        return ArrayTensor(self.name, self.dtype, self.shape, data)

    def _rows(self, first: int, last: int, down: Buffer) -> Buffer:
        rank, width = down.shape
        up = _wide(self.up, first * rank, last * rank).reshape(-1, rank)
        weight = _wide(self.base, first * width, last * width).reshape(-1, width)
        weight += self.scaling * (up @ down)
        if self.magnitudes is not None:
            norms = np.sqrt(np.einsum("oi,oi->o", weight, weight))
            wanted = _wide(self.magnitudes, first, last)
            weight *= (wanted / np.where(norms == 0, 1.0, norms))[:, None]
        return weight if self.dtype == "F64" else weight.astype(np.float32)


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a digest of a sample of weights, the same whatever file and type they come from.

    Args:
        tensors: Those that an adapter changes, with their Hugging Face names.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        size = numel(tensor)
        count = min(size, _SAMPLE)
        values = np.empty(count, np.float32)
        start = (size - count) // 2
        tensor.read(start, values)
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        digest.update(np.ascontiguousarray(values, "<f4").tobytes())
    return digest.hexdigest()


def with_adapter(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return a base as it is with an adapter on it; nothing but names is read.

    Raises:
        CheckpointError: The adapter is no LoRA or not whole, says what is not known, or does not
            fit the base.
    """
    if adapter.weights is None:
        raise adapter.refusal("and no file adapter_model.safetensors with its weights")
    lora, own = read_lora(adapter), base.by_name()
    stored, told = _stored(adapter.weights)
    pairs, others = _sorted_out(adapter, stored)
    made: dict[str, Tensor] = {}
    aside: dict[str, Tensor] = {}
    missing: list[str] = []
    changed: list[str] = []
    for module, parts in pairs.items():
        name = _own_name(f"{module}.weight", own)
        if name is None:
            outside = {f"{module}.{part}": tensor for part, tensor in parts.items()}
            aside |= outside if _is_of_head(module, own) else {}
            missing += [] if _is_of_head(module, own) else [module]
            continue
        changed.append(name)
        made[name] = _adapted(adapter, lora, module, own[name], parts)
        bias = f"{name.removesuffix('weight')}bias"
        if "lora_B.bias" in parts and bias in own:
            shape = parts["lora_B.bias"].shape
            _check_shape(adapter, f"the bias of lora_B of {module}", own[bias].shape, shape)
            made[bias] = _sum(own[bias], parts["lora_B.bias"], lora.scaling(module))
    for stored_name, tensor in others.items():
        name = _own_name(normalise_weight_norm(stored_name), own)
        if name is None:
            aside |= {stored_name: tensor} if _is_of_head(stored_name, own) else {}
            missing += [] if _is_of_head(stored_name, own) else [stored_name]
            continue
        _check_shape(adapter, name, own[name].shape, tensor.shape)
        made[name] = tensor
    _check(adapter, base, missing, made, {name: own[name] for name in changed}, told)
    back = {new: old for old, new in base.names.items()}
    tensors = base.tensors | {back[name]: tensor for name, tensor in made.items()} | aside
    return replace(
        base,
        source=f"{base.source}+{adapter.source}",
        tensors=tensors,
        files=(*base.files, adapter.weights.with_name(ADAPTER_NAME), adapter.weights),
        adapter=f"{adapter.kind} on {len(changed)} matrices of {base.source}",
    )


def _stored(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Return the tensors of an adapter's file, and what it says of its base."""
    if path.suffix == ".safetensors":
        _, metadata = read_header(path)
        return safetensors_tensors([path]), metadata.get(BASE_KEY)
    loaded = load_pickle(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}, expected tensors by name")
    return {str(name): memory_tensor(str(name), value) for name, value in loaded.items()}, None


def _sorted_out(
    adapter: Adapter, stored: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the parts of every adapted module, and what takes the place of the base's tensors."""
    pairs: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for stored_name, tensor in stored.items():
        if tensor.dtype not in FLOAT_BYTES:
            raise CheckpointError(
                f"{adapter.source}: {stored_name} is of type {tensor.dtype}, expected a float"
            )
        name = stored_name.removeprefix(PREFIX)
        if found := _PARTS.fullmatch(name):
            part = found["part"] + (".bias" if found["leaf"] == "bias" else "")
            pairs.setdefault(found["module"], {})[part] = tensor
        elif "lora_" in name:
            raise adapter.refusal(f"whose tensor {name[:100]} is of a kind that is not known here")
        else:
            others[_WRAPPED.sub("", name)] = tensor
    return pairs, others


def _own_name(name: str, own: Mapping[str, Tensor]) -> str | None:
    """Return the base's name of a tensor of the model that was adapted, ``hubert.`` or not."""
    for _ in range(3):
        if name in own:
            return name
        name = name.partition(".")[2]
    return None


def _is_of_head(name: str, own: Mapping[str, Tensor]) -> bool:
    """Return whether a name that a base does not have is that of a head, not of another encoder."""
    roots = {known.partition(".")[0] for known in own}
    return is_head(name) and not roots & set(name.split(".")[:3])


def _adapted(
    adapter: Adapter, lora: Lora, module: str, base: Tensor, parts: Mapping[str, Tensor]
) -> AdaptedTensor:
    """Put a matrix and its update together.

    Raises:
        CheckpointError: A part is missing, or of another shape.
    """
    wanted = ["lora_A", "lora_B", *(["lora_magnitude_vector"] if lora.has_magnitudes else [])]
    for part in wanted:
        if part not in parts:
            raise CheckpointError(f"{adapter.source} lacks {part} of {module}: it is not whole")
    down, up, rank = parts["lora_A"], parts["lora_B"], lora.rank_of(module)
    ones = (1,) * (len(base.shape) - 2)
    _check_shape(adapter, f"lora_A of {module}", (rank, *base.shape[1:]), down.shape)
    _check_shape(adapter, f"lora_B of {module}", (base.shape[0], rank, *ones), up.shape)
    magnitudes = parts["lora_magnitude_vector"] if lora.has_magnitudes else None
    if magnitudes is not None and numel(magnitudes) != base.shape[0]:
        what = f"lora_magnitude_vector of {module}"
        _check_shape(adapter, what, (base.shape[0],), magnitudes.shape)
    return AdaptedTensor(base.name, base, down, up, lora.scaling(module), magnitudes)


def _sum(base: Tensor, added: Tensor, scaling: float) -> ArrayTensor:
    """Return a bias with what an adapter adds to it."""
    total = _wide(base, 0, numel(base)) + scaling * _wide(added, 0, numel(added))
    is_wide = base.dtype == "F64"
    total = total if is_wide else total.astype(np.float32)
    return ArrayTensor(base.name, "F64" if is_wide else "F32", base.shape, total)


def _check_shape(
    adapter: Adapter, what: str, expected: tuple[int, ...], found: tuple[int, ...]
) -> None:
    if expected != found:
        raise CheckpointError(
            f"{adapter.source} does not fit the base: {what} is of shape {list(found)}, expected "
            f"{list(expected)}",
            hint=f"it was made for {adapter.base or 'another encoder'}; name that base before it, "
            "as BASE+ADAPTER. On convolutions in groups not even PEFT merges an adapter",
        )


def _check(
    adapter: Adapter,
    base: Checkpoint,
    missing: list[str],
    made: Mapping[str, Tensor],
    changed: Mapping[str, Tensor],
    told: str | None,
) -> None:
    """Refuse an adapter that changes nothing of a base, or what the base does not have.

    Raises:
        CheckpointError: It is for another base.
    """
    if missing or not made:
        what = ", ".join(missing[:4]) or "none of its tensors"
        raise CheckpointError(
            f"{adapter.source} does not fit {base.source}: it changes {what}"
            + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
            + (", which that lacks" if missing else " in the encoder"),
            hint=f"it was made for {adapter.base or 'another encoder'}; name that base before it, "
            "as BASE+ADAPTER. Weights under weight norm cannot be adapted",
        )
    for name, tensor in changed.items():
        if tensor.dtype not in FLOAT_BYTES:
            raise CheckpointError(
                f"{base.source}: {name} is {tensor.dtype}, which takes no adapter"
            )
    if told is not None and told != weights_digest(changed.items()):
        raise CheckpointError(
            f"{adapter.source} was made for other weights than those of {base.source}",
            hint=f"its base was called {adapter.base or '(not named)'}; name that before it, as "
            "BASE+ADAPTER",
        )


def _wide(tensor: Tensor, start: int, stop: int) -> Buffer:
    values = np.empty(stop - start, np.float64)
    tensor.read(start, values)
    return values
