"""Vectors of independent normals, the most frequent distributions in a training step."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import register_kl


class NormalVector(dist.Independent):
    """`dist.Normal(mean, exp(log_scale)).to_event(1)`, which a plate does not copy if its shape already fits.

    Mean and log scale have shape (..., dim), the distribution batch shape (...) and event shape (dim,).
    """

    def __init__(self, mean: Tensor, log_scale: Tensor, scale: Tensor | None = None) -> None:
        self.log_scale = log_scale
        super().__init__(dist.Normal(mean, log_scale.exp() if scale is None else scale), 1)

    def expand(self, batch_shape, _instance=None):
        """The same vectors in a larger batch."""
        if batch_shape == self.batch_shape:
            return self
        shape = (*batch_shape, *self.event_shape)
        mean, log_scale, scale = (
            part.expand(shape) for part in (self.base_dist.loc, self.log_scale, self.base_dist.scale)
        )
        return NormalVector(mean, log_scale, scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of vectors of shape (..., dim), shape (...)."""
        standardized = (value - self.base_dist.loc) / self.base_dist.scale
        return _log_standard_normal(standardized) - self.log_scale.sum(-1)


class StandardNormalVector(NormalVector):
    """N(0, I), given zeros and ones of shape (..., dim)."""

    def __init__(self, zeros: Tensor, ones: Tensor) -> None:
        super().__init__(zeros, zeros, ones)

    def expand(self, batch_shape, _instance=None):
        """The same vectors in a larger batch."""
        if batch_shape == self.batch_shape:
            return self
        shape = (*batch_shape, *self.event_shape)
        return StandardNormalVector(self.base_dist.loc.expand(shape), self.base_dist.scale.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of vectors of shape (..., dim), shape (...)."""
        return _log_standard_normal(value).expand(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))


def _log_standard_normal(value: Tensor) -> Tensor:
    # Halving is exact: one pass and two round alike.
    return torch.rsub(value.square().sum(-1), -0.5 * math.log(2 * math.pi) * value.shape[-1], alpha=0.5)


@register_kl(NormalVector, StandardNormalVector)
def _kl_from_standard_normal(q: NormalVector, p: StandardNormalVector) -> Tensor:
    kl = _KLFromStandardNormal.apply(q.base_dist.loc, q.log_scale, q.base_dist.scale.detach())
    return kl.expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


class _KLFromStandardNormal(torch.autograd.Function):
    """Kingma & Welling 2014, appendix B: minus half the sum of 1 + log s^2 - m^2 - s^2 over dimensions, shape (...)."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(mean, scale)
        terms = mean.square().addcmul_(scale, scale).sub_(log_scale, alpha=2)
        # Half of the difference in one pass: halving is exact.
        return torch.rsub(terms.sum(-1), -mean.shape[-1] / 2, alpha=-0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        mean, scale = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        return gradient * mean, torch.addcmul(-gradient, gradient * scale, scale), None
