"""Many probes trained side by side on the same batches: one for each learning rate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from speechft.features.featurizer import WeightedSum


class Probe(nn.Module):
    """Weighted sum of hidden states, then a task's head.

    Shapes: N hidden states, B batch, T frames, D dim.
    """

    def __init__(self, states: int, head: nn.Module) -> None:
        super().__init__()
        self.featurizer = WeightedSum(states)
        self.head = head

    def forward(self, hidden_states: Tensor, lengths: Tensor) -> Tensor:
        """Map (N, B, T, D) and (B,) to logits."""
        logits: Tensor = self.head(self.featurizer(hidden_states), lengths)
        return logits


class ProbeGrid:
    """G probes with the same initial weights and one learning rate each.

    Each is trained exactly as it would be alone with `torch.optim.Adam` and gradient clipping: the
    forward pass is shared by `torch.func.vmap`, gradients do not mix, and every probe has its own
    step size and its own clipping.

    Args:
        make: Builds a probe; called once.
        learning_rates: G learning rates.
        clip: Largest gradient norm of each probe.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        make: Callable[[], Probe],
        learning_rates: Sequence[float],
        *,
        clip: float = 1.0,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        first = make()
        probes = [copy.deepcopy(first) for _ in learning_rates]
        self.parameters, _ = stack_module_state(probes)
        self._skeleton = first.to("meta")
        self._rates = torch.tensor(learning_rates)
        self._clip = clip
        self._step = 0
        self._first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self._second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}

    def logits(self, hidden_states: Tensor, lengths: Tensor) -> Tensor:
        """Return (G, ...) logits of all probes on the same (N, B, T, D) hidden states."""

        def single(parameters: dict[str, Tensor]) -> Tensor:
            result: Tensor = functional_call(self._skeleton, parameters, (hidden_states, lengths))
            return result

        stacked: Tensor = torch.vmap(single)(self.parameters)
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
            self._step += 1
            for name, gradient in zip(names, gradients, strict=True):
                self._adam(name, gradient * _spread(scale, gradient))

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
        for tensors in (self._first, self._second):
            for name in tensors:
                tensors[name] = tensors[name][list(numbers)]
        for name, parameter in self.parameters.items():
            kept = parameter.detach()[list(numbers)]
            self.parameters[name] = kept.requires_grad_()
        self._rates = self._rates[list(numbers)]

    def _clip_factor(self, gradients: Sequence[Tensor]) -> Tensor:
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
        return (self._clip / (squares.sqrt() + 1e-6)).clamp(max=1.0)

    def _adam(self, name: str, gradient: Tensor, beta1: float = 0.9, beta2: float = 0.999) -> None:
        """Update one stacked parameter (Kingma and Ba 2015, as in `torch.optim.Adam`)."""
        first, second = self._first[name], self._second[name]
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rate = _spread(self._rates, gradient) / (1 - beta1**self._step)
        denominator = second.sqrt() / (1 - beta2**self._step) ** 0.5 + 1e-8
        self.parameters[name].sub_(rate * first / denominator)


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Shape (G,) values to multiply a (G, ...) tensor."""
    return values.view(-1, *([1] * (like.dim() - 1)))
