"""Results in memory: state dicts, live modules, and swapping alphas in place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from speechft.encoders.conversion.keys import encoder_prefix
from speechft.encoders.families.tables import normalise_weight_norm
from speechft.errors import CheckpointError
from speechft.merging.plan import Plan, TensorPlan
from speechft.merging.stream import ArraySink

if TYPE_CHECKING:
    import torch

_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"}


def in_memory(base: Any, plan: Plan, sink: ArraySink) -> Any:
    """Return the merged tensors as what the base is: a module, or a state dict of its type.

    Args:
        base: What was given as base.
        plan: The plan.
        sink: The merged tensors.
    """
    if isinstance(base, Mapping) and all(isinstance(v, np.ndarray) for v in base.values()):
        return {item.name: as_array(item, sink.data[item.name]) for item in plan.items}
    state = {item.name: as_torch(item, sink.data[item.name]) for item in plan.items}
    if isinstance(base, Mapping):
        return {name: value.to(base[name].device) for name, value in state.items()}
    if hasattr(base, "state_dict"):
        module = copy.deepcopy(base)
        module.load_state_dict(state)
        return module
    return state


def as_array(item: TensorPlan, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """View raw bytes as an array of the item's shape; bfloat16 stays uint16."""
    kind = _NUMPY.get(item.dtype) or f"<{item.dtype[0].lower()}{int(item.dtype[1:]) // 8}"
    return data.view(kind).reshape(item.base.shape)


def as_torch(item: TensorPlan, data: np.ndarray[Any, Any]) -> torch.Tensor:
    """View raw bytes as a torch tensor of the item's type and shape."""
    import torch

    tensor = torch.from_numpy(as_array(item, data))
    return tensor.view(torch.bfloat16) if item.dtype == "BF16" else tensor


def interpolate_(
    module: torch.nn.Module,
    base_state: Mapping[str, torch.Tensor],
    delta: Mapping[str, torch.Tensor],
    alpha: float,
) -> torch.nn.Module:
    """Set a module's weights to base + alpha * delta, in place and without a second model.

    Tensors without an entry in ``delta`` get the base's value. Call it again with another alpha:
    nothing accumulates.

    Args:
        module: The module, on any device; its dtype is kept, the arithmetic is float32.
        base_state: State dict of the base, in either spelling of weight norm; what stands before
            the encoder's names, such as ``model.``, does not matter, nor in module and delta.
        delta: Task vector by name, as `speechft.merging.delta.load_delta` returns it.
        alpha: Coefficient.

    Returns:
        The module.

    Raises:
        CheckpointError: Names or shapes do not fit the module, ``base_state`` is its own, or a
            value would be beyond the range of the module's type; the module is as it was then.
    """
    import torch

    own, bases, moves = map(_by_name, (module.state_dict(keep_vars=True), base_state, delta))
    unknown = sorted(set(moves) - set(own)) + sorted(set(own) - set(bases))
    wrong = [n for n in own if n in bases and bases[n].shape != own[n].shape]
    wrong += [n for n in moves if n in own and moves[n].shape != own[n].shape]
    if unknown or wrong:
        raise CheckpointError(
            f"base and delta do not fit the module: {', '.join((unknown + wrong)[:5])}",
            hint="they must have the module's names and shapes",
        )
    if any(t.numel() and t.data_ptr() == bases[n].data_ptr() for n, t in own.items()):
        raise CheckpointError(
            "base_state shares its memory with the module, which is about to change",
            hint="copy it first: {name: tensor.clone() for name, tensor in state.items()}",
        )
    with torch.no_grad():
        added = {n for n, target in own.items() if n in moves and target.is_floating_point()}
        for name in added:
            _check_range(name, own[name], bases[name], moves[name], alpha)
        for name, target in own.items():
            base = bases[name].to(target.device)
            if name in added:
                move = moves[name].to(target.device, torch.float32)
                base = base.to(torch.float32) + alpha * move
            target.copy_(base)
    return module


def _check_range(
    name: str, target: torch.Tensor, base: torch.Tensor, move: torch.Tensor, alpha: float
) -> None:
    """Refuse a sum that is not finite in the type of the target."""
    import torch

    if not target.numel():
        return
    largest = float(base.abs().max()) + abs(alpha) * float(move.abs().max())
    if largest < torch.finfo(target.dtype).max:
        return
    total = base.to(torch.float32) + alpha * move.to(base.device, torch.float32)
    if not bool(total.to(target.dtype).isfinite().all()):
        kind = str(target.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"base + {alpha:g} * delta is beyond the range of {kind} in {name}",
            hint="take a smaller alpha, or a module of a wider type",
        )


def _by_name(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = encoder_prefix(state) or ""
    return {normalise_weight_norm(n.removeprefix(prefix)): t for n, t in state.items()}
