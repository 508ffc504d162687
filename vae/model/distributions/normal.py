"""Vectors of independent normals, the most frequent distributions in a training step."""

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import register_kl

_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class NormalVector(dist.Independent):
    """`dist.Normal(mean, exp(log_scale)).to_event(1)`, which a plate does not copy if its shape already fits.

    Mean and log scale have shape (..., dim), the distribution batch shape (...) and event shape (dim,).
    """

    def __init__(self, mean: Tensor, log_scale: Tensor, scale: Tensor | None = None) -> None:
        self.log_scale = log_scale
        self._drawn: tuple[Tensor, Tensor] | None = None  # the last draw and its noise
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

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw mean + noise * scale, shape sample_shape + (..., dim)."""
        mean, shape = self.base_dist.loc, self._extended_shape(sample_shape)
        noise = torch.empty(shape, dtype=mean.dtype, device=mean.device).normal_()
        step = noise * self.base_dist.scale.detach()
        value = _Shifted.apply(mean.expand(shape), self.log_scale.expand(shape), step)
        self._drawn = value, noise
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of vectors of shape (..., dim), shape (...)."""
        if self._drawn and value is self._drawn[0]:
            # Of a draw, (value - mean) / scale is the noise, whatever the mean and the scale are.
            standardized = self._drawn[1]
        else:
            standardized = (value - self.base_dist.loc) / self.base_dist.scale
        terms = torch.addcmul(self.log_scale, standardized, standardized, value=0.5)
        return torch.rsub(terms.sum(-1), -_HALF_LOG_2_PI * terms.shape[-1])


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
        density = _LogStandardNormal.apply(value)
        # Not torch.broadcast_shapes, which takes half a second to import SymPy; nor below.
        return density.expand(np.broadcast_shapes(density.shape, self.batch_shape))


class _Shifted(torch.autograd.Function):
    """The mean plus a step that is noise times the exponential of the log scale."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_scale: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(step)
        return mean + step

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (step,) = ctx.saved_tensors
        return gradient, gradient * step, None


class _LogStandardNormal(torch.autograd.Function):
    """Minus half the sum of x^2 + log(2 pi) over dimensions, shape (...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        # Halving is exact: one pass and two round alike.
        return torch.rsub(x.square().sum(-1), -_HALF_LOG_2_PI * x.shape[-1], alpha=0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return -gradient.unsqueeze(-1) * x


@register_kl(NormalVector, StandardNormalVector)
def _kl_from_standard_normal(q: NormalVector, p: StandardNormalVector) -> Tensor:
    kl = _KLFromStandardNormal.apply(q.base_dist.loc, q.log_scale, q.base_dist.scale.detach())
    return kl.expand(np.broadcast_shapes(q.batch_shape, p.batch_shape))


class _KLFromStandardNormal(torch.autograd.Function):
    """Kingma & Welling 2014, appendix B: minus half the sum of 1 + log s^2 - m^2 - s^2 over dimensions, shape (...)."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(mean, scale)
        terms = torch.addcmul(log_scale, mean, mean, value=-0.5).addcmul_(scale, scale, value=-0.5)
        return torch.rsub(terms.sum(-1), -0.5 * mean.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        mean, scale = ctx.saved_tensors
        gradient = gradient.unsqueeze(-1)
        # The second is gradient * (scale^2 - 1), in two operations.
        return gradient * mean, torch.ops.aten.tanh_backward(-gradient, scale), None
