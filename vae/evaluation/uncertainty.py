"""Standard errors of metrics: over images, over draws, or both."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A metric's value and its standard error, in the same unit."""

    value: float
    error: float


def over_images(values: Tensor) -> Estimate:
    """The mean of one value per image (n,), of any type, and its standard error; 0 for a single value.

    For indicators this is the binomial error but for a factor of n / (n - 1).
    """
    values = values.double()
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(values.mean().item(), error)


def over_draws(values: Sequence[float], image_error: float = 0.0) -> Estimate:
    """The mean over independent draws, with the error of that mean and an error over images that all draws share."""
    estimate = over_images(torch.tensor(values, dtype=torch.float64))
    return Estimate(estimate.value, math.hypot(estimate.error, image_error))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """The first minus the second, which are independent."""
    return Estimate(first.value - second.value, math.hypot(first.error, second.error))


def ratio(numerator: Estimate, denominator: Estimate) -> Estimate:
    """The quotient of two independent positive values, its error to first order (the delta method)."""
    value = numerator.value / denominator.value
    return Estimate(value, math.hypot(numerator.error, value * denominator.error) / denominator.value)


def flat(estimates: dict[str, Estimate]) -> dict[str, float]:
    """Metrics by key: `X` and, after it, `X_stderr`."""
    pairs = (((name, value), (f"{name}_stderr", error)) for name, (value, error) in estimates.items())
    return dict(pair for both in pairs for pair in both)
