"""The continuous Bernoulli distribution of pixels in [0, 1], exact at every logit."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

# Below this the closed forms cancel and series take over; the first terms that they leave out are under 1e-7.
_NEAR_ZERO = 0.3


class ContinuousBernoulliImage(dist.TorchDistribution):
    """Images of independent pixels with density exp(a x - A(a)) on [0, 1] (Loaiza-Ganem & Cunningham 2019).

    The logit a has the image's shape (channels, height, width) and A(a) = log((exp(a) - 1) / a). The one in
    `torch.distributions` clamps the probability sigmoid(a): beyond logits of about 16 its density does not integrate
    to 1 and its mean stops moving.
    """

    arg_constraints: ClassVar[dict] = {}
    support = dist.constraints.independent(dist.constraints.unit_interval, 3)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-3], logits.shape[-3:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        """The same images in a larger batch."""
        if batch_shape == self.batch_shape:
            return self
        return ContinuousBernoulliImage(self.logits.expand(*batch_shape, *self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Each pixel's mean A'(a) = 1 / (1 - exp(-a)) - 1 / a."""
        return mean(self.logits)

    @property
    def variance(self) -> Tensor:
        """Each pixel's variance A''(a) = 1 / a^2 - 1 / (4 sinh(a / 2)^2)."""
        near, a = _split(self.logits)
        decay = (-a.abs()).exp()
        exact = a**-2 - decay / (1 - decay) ** 2
        square = self.logits.square()
        return torch.where(near, 1 / 12 - square / 240 + square**2 / 6048, exact)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw images by inverting the distribution function."""
        logits = self.logits.expand(self._extended_shape(sample_shape))
        uniform = torch.rand(logits.shape, device=logits.device, dtype=logits.dtype)
        # With s = |a| and u uniform on [0, 1], -log(1 + u (exp(-s) - 1)) / s is a draw for a < 0, and 1 minus it one
        # for a > 0; the limit as s -> 0 is u.
        size = logits.abs().clamp(min=1e-6)
        draw = -torch.log1p(uniform * torch.expm1(-size)) / size
        return torch.where(logits > 0, 1 - draw, draw).clamp(0, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of images (..., channels, height, width), summed over their pixels."""
        return (self.logits * value - log_partition(self.logits)).sum((-3, -2, -1))


def log_partition(logits: Tensor) -> Tensor:
    """A(a) = log((exp(a) - 1) / a) of each logit a, of any shape."""
    near, a = _split(logits)
    size = a.abs()
    exact = size / 2 + torch.log1p(-(-size).exp()) - size.log()
    square = logits.square()
    even = torch.where(near, square / 24 - square**2 / 2880 + square**3 / 181440, exact)
    return logits / 2 + even


def mean(logits: Tensor) -> Tensor:
    """The mean at each logit, of any shape, from 0 to 1."""
    near, a = _split(logits)
    # Of |a|, as the gradient at a large exp(-a) would be infinity times 0.
    decay = (-a.abs()).exp()
    lower = 1 / a.abs() - decay / (1 - decay)
    exact = torch.where(a > 0, 1 - lower, lower)
    cube = logits**3
    return torch.where(near, 0.5 + logits / 12 - cube / 720 + cube * logits.square() / 30240, exact)


def logit_of_mean(means: Tensor) -> Tensor:
    """The logits whose means are `means`, of any shape and clipped to [0.01, 0.99], by bisection."""
    # Beyond these clips (a logit of 100), a single gray pixel where training images are black costs hundreds of nats.
    means = means.clamp(0.01, 0.99)
    low, high = torch.full_like(means, -110), torch.full_like(means, 110)
    for _ in range(50):
        middle = (low + high) / 2
        below = mean(middle) < means
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _split(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Where the series hold, and logits that are safe for the closed forms, in the backward pass too."""
    near = logits.abs() < _NEAR_ZERO
    return near, torch.where(near, torch.ones_like(logits), logits)
