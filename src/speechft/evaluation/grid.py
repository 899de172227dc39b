"""Many probes trained side by side on the same batches: one for each learning rate."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from speechft.data.batching import seed_of
from speechft.features.featurizer import WeightedSum
from speechft.tasks.heads import FrameHead, UtteranceHead

Augment = Callable[[Tensor, Tensor], Tensor]
"""From (B, T, D) features and (B,) lengths to changed features."""


class Probe(nn.Module):
    """Weighted sum of hidden states, then a task's head.

    Shapes: N hidden states, B batch, T frames, D dim.

    Args:
        states: N.
        head: Of the task.
        augment: Changes the features in training, such as SpecAugment.
    """

    def __init__(self, states: int, head: nn.Module, augment: Augment | None = None) -> None:
        super().__init__()
        self.featurizer = WeightedSum(states)
        self.head = head
        self._augment = augment

    @property
    def is_linear(self) -> bool:
        """Whether `torch.func.vmap` can take it: a linear head, nothing random."""
        return isinstance(self.head, (FrameHead, UtteranceHead)) and self._augment is None

    def forward(self, hidden_states: Tensor, lengths: Tensor) -> Tensor:
        """Map (N, B, T, D) and (B,) to logits."""
        features = self.featurizer(hidden_states)
        if self.training and self._augment is not None:
            features = self._augment(features, lengths)
        logits: Tensor = self.head(features, lengths)
        return logits


class Grid(Protocol):
    """Probes that are trained side by side."""

    def train(self, mode: bool) -> None:
        """Switch dropout and augmentation on or off."""

    def logits(self, hidden_states: Tensor, lengths: Tensor) -> Tensor:
        """Return (G, ...) logits of all probes on the same (N, B, T, D) hidden states."""

    def update(self, losses: Tensor) -> None:
        """Make one step for every probe from its loss, (G,)."""

    def snapshot(self, number: int) -> dict[str, Tensor]:
        """Return a copy of the weights of one probe."""

    def restore(self, number: int, weights: dict[str, Tensor]) -> None:
        """Put weights back into one probe."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with some of the probes only, in this order."""


def make_grid(
    make: Callable[[], Probe],
    learning_rates: Sequence[float],
    *,
    clip: float = 1.0,
    seeds: Sequence[int] = (0,),
    layers: Sequence[int | None] = (),
    weight_decay: float = 0.0,
    device: torch.device | None = None,
) -> Grid:
    """Return the fastest grid for a kind of probe: linear heads share one forward pass.

    Args:
        make: Builds a probe.
        learning_rates: G learning rates.
        clip: Largest gradient norm of each probe.
        seeds: G seeds of the initial weights, or one for all.
        layers: G hidden states that the probes see alone, None for the weighted sum of all; empty
            for that throughout.
        weight_decay: Decoupled (AdamW).
        device: Where to train; None for the CPU.
    """
    each = list(seeds) if len(seeds) > 1 else [seeds[0]] * len(learning_rates)
    torch.manual_seed(each[0])
    if make().is_linear and weight_decay == 0.0:
        return ProbeGrid(make, learning_rates, clip=clip, seeds=each, layers=layers, device=device)
    return ModuleGrid(
        make,
        learning_rates,
        clip=clip,
        seeds=each,
        layers=layers,
        weight_decay=weight_decay,
        device=device,
    )


def _probes(
    make: Callable[[], Probe],
    seeds: Sequence[int],
    layers: Sequence[int | None],
    device: torch.device | None,
) -> list[Probe]:
    """Return a probe for each seed; those with a layer see that hidden state alone."""
    probes = []
    for seed, layer in zip(seeds, layers or [None] * len(seeds), strict=True):
        torch.manual_seed(seed)
        probe = make()
        if layer is not None:
            probe.featurizer.see_only(layer)
        probes.append(probe.to(device))
    return probes


class ModuleGrid:
    """G probes as modules of their own, for heads that `torch.func.vmap` cannot take (LSTMs).

    They share the batches, that is, the encoder's forward pass, the reading and the padding. Each
    has its own optimizer and clipping, and the same dropout as when it is trained alone.

    Args:
        make: Builds a probe.
        learning_rates: G learning rates.
        clip: Largest gradient norm of each probe.
        seeds: G seeds of the initial weights.
        layers: G hidden states that the probes see alone, see `make_grid`.
        weight_decay: Decoupled (AdamW).
        device: Where to train; None for the CPU.
    """

    def __init__(
        self,
        make: Callable[[], Probe],
        learning_rates: Sequence[float],
        *,
        clip: float = 1.0,
        seeds: Sequence[int],
        layers: Sequence[int | None] = (),
        weight_decay: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        self._probes = _probes(make, seeds, layers, device)
        self._optimizers = [
            torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=weight_decay, fused=True)
            for probe, rate in zip(self._probes, learning_rates, strict=True)
        ]
        self._clip, self._seeds, self._step = clip, list(seeds), 0

    def train(self, mode: bool) -> None:
        """Switch dropout and augmentation on or off."""
        for probe in self._probes:
            probe.train(mode)

    def logits(self, hidden_states: Tensor, lengths: Tensor) -> Tensor:
        """Return (G, ...) logits of all probes on the same (N, B, T, D) hidden states."""
        rows = []
        for probe, seed in zip(self._probes, self._seeds, strict=True):
            if not probe.training:
                rows.append(probe(hidden_states, lengths))
                continue
            with _random_state(seed_of(seed, "dropout", self._step), hidden_states.device):
                rows.append(probe(hidden_states, lengths))
        return torch.stack(rows)

    def update(self, losses: Tensor) -> None:
        """Make one AdamW step for every probe from its loss, (G,)."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward([losses.sum()])
        for probe, optimizer in zip(self._probes, self._optimizers, strict=True):
            nn.utils.clip_grad_norm_(probe.parameters(), self._clip)
            optimizer.step()
        self._step += 1

    def snapshot(self, number: int) -> dict[str, Tensor]:
        """Return a copy of the weights of one probe."""
        return {n: p.detach().clone() for n, p in self._probes[number].named_parameters()}

    def restore(self, number: int, weights: dict[str, Tensor]) -> None:
        """Put weights back into one probe."""
        self._probes[number].load_state_dict(weights)

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with some of the probes only, in this order."""
        self._probes = [self._probes[number] for number in numbers]
        self._optimizers = [self._optimizers[number] for number in numbers]
        self._seeds = [self._seeds[number] for number in numbers]


@contextlib.contextmanager
def _random_state(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(seed)
        yield


class ProbeGrid:
    """G probes with one learning rate each, from the same initial weights or from G seeds.

    Each is trained exactly as it would be alone with `torch.optim.Adam` and gradient clipping: the
    forward pass is shared by `torch.func.vmap`, gradients do not mix, and every probe has its own
    step size and its own clipping.

    Args:
        make: Builds a probe.
        learning_rates: G learning rates.
        clip: Largest gradient norm of each probe.
        seed: Seed of the initial weights of all.
        seeds: G seeds instead.
        layers: G hidden states that the probes see alone, see `make_grid`.
        device: Where to train; None for the CPU.
    """

    def __init__(
        self,
        make: Callable[[], Probe],
        learning_rates: Sequence[float],
        *,
        clip: float = 1.0,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        layers: Sequence[int | None] = (),
        device: torch.device | None = None,
    ) -> None:
        probes = _probes(make, seeds or [seed] * len(learning_rates), layers, device)
        self.parameters, self._buffers = stack_module_state(probes)
        self._skeleton = probes[0].to("meta")
        self._rates = list(learning_rates)
        self._clip = clip
        self._optimizer = self._make_optimizer()

    def train(self, mode: bool) -> None:
        """Do nothing: linear heads are the same in training."""

    def logits(self, hidden_states: Tensor, lengths: Tensor) -> Tensor:
        """Return (G, ...) logits of all probes on the same (N, B, T, D) hidden states."""

        def single(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            state = {**parameters, **buffers}
            result: Tensor = functional_call(self._skeleton, state, (hidden_states, lengths))
            return result

        stacked: Tensor = torch.vmap(single)(self.parameters, self._buffers)
        return stacked

    def update(self, losses: Tensor) -> None:
        """Make one Adam step for every probe.

        Args:
            losses: (G,) the loss of each.
        """
        names = list(self.parameters)
        gradients = torch.autograd.grad(losses.sum(), [self.parameters[n] for n in names])
        with torch.no_grad():
            scale = self._clip_factor(gradients)
            for name, gradient in zip(names, gradients, strict=True):
                torch.mul(gradient, _spread(scale, gradient), out=self._clipped[name])
        self._optimizer.step()

    def snapshot(self, number: int) -> dict[str, Tensor]:
        """Return a copy of the weights of one probe."""
        return {name: p.detach()[number].clone() for name, p in self.parameters.items()}

    def restore(self, number: int, weights: dict[str, Tensor]) -> None:
        """Put weights back into one probe."""
        with torch.no_grad():
            for name, tensor in weights.items():
                self.parameters[name][number] = tensor

    def keep(self, numbers: Sequence[int]) -> None:
        """Go on with some of the probes only, in this order."""
        chosen, groups = list(numbers), self._optimizer.param_groups
        states = [
            [self._optimizer.state[parameter] for parameter in groups[n]["params"]] for n in chosen
        ]
        self._buffers = {name: buffer[chosen] for name, buffer in self._buffers.items()}
        for name, parameter in self.parameters.items():
            kept = parameter.detach()[chosen]
            self.parameters[name] = kept.requires_grad_()
        self._rates = [self._rates[number] for number in chosen]
        self._optimizer = self._make_optimizer()
        for group, state in zip(self._optimizer.param_groups, states, strict=True):
            self._optimizer.state.update(zip(group["params"], state, strict=True))

    def _make_optimizer(self) -> torch.optim.Adam:
        """Return a fused Adam: a group a probe, whose tensors are rows of the stacked ones."""
        self._clipped = {name: torch.empty_like(p) for name, p in self.parameters.items()}
        groups = []
        for number, rate in enumerate(self._rates):
            rows = []
            for name, stacked in self.parameters.items():
                row = nn.Parameter(stacked.detach()[number])
                row.grad = self._clipped[name][number]
                rows.append(row)
            groups.append({"params": rows, "lr": rate})
        return torch.optim.Adam(groups, fused=True)

    def _clip_factor(self, gradients: Sequence[Tensor]) -> Tensor:
        norms = [torch.linalg.vector_norm(g, dim=tuple(range(1, g.dim()))) for g in gradients]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return (self._clip / (norm + 1e-6)).clamp(max=1.0)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Shape (G,) values to multiply a (G, ...) tensor."""
    return values.view(-1, *([1] * (like.dim() - 1)))
