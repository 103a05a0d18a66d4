"""A moving average of a model's parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["ParameterAverage"]


class ParameterAverage:
    """Exponential moving average of a model's parameters over the steps of its training.

        average <- d average + (1 - d) parameters,   d = min(decay, (1 + n) / (10 + n))

    after step ``n = 1, 2, ...``, so that the start is forgotten sooner than ``decay`` alone would
    have it. An average has the effect of a falling learning rate without depending on when training
    ends: any epoch may be the last one.

    Args:
        model: The model that is trained.
        decay: Memory; 0.995 averages over the last few hundred steps.

    References:
        B. Polyak and A. Juditsky: Acceleration of Stochastic Approximation by Averaging, SIAM
        Journal on Control and Optimization 30(4), 1992. The start as in TensorFlow's
        ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._parameters = dict(model.named_parameters())
        self._average = {name: value.detach().clone() for name, value in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(
            list(self._average.values()), list(self._parameters.values()), 1 - decay
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the context, the model's parameters are the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """The average, and how many steps are in it."""
        return {**self._average, "steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave.

        Raises:
            KeyError: If a parameter is missing.
        """
        self.steps = int(state["steps"])
        for name, value in self._average.items():
            value.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            kept = parameter.clone()
            parameter.copy_(self._average[name])
            self._average[name].copy_(kept)
