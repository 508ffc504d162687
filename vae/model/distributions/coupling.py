"""Affine coupling with few operations: small kernels are most of a training step's time on a GPU."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import DenseNN
from torch import Tensor
from torch.autograd.function import once_differentiable

from vae.model.kernels import linear

_LOG_SCALES = (-5.0, 3.0)


class AffineCoupling(dist.TransformModule):
    """An affine coupling layer (RealNVP, Dinh et al. 2017, equations 7 and 8), as Pyro's, in half the operations.

    With x and y split into their first `half` dimensions and the others, and m and s given by the network:

        y_1 = x_1        y_2 = m(x_1) + exp(s(x_1)) * x_2

    s is clamped to [-5, 3], with the gradient of the unclamped value. The network maps vectors of shape (..., half) to
    m and s, one after the other.
    """

    domain = dist.constraints.real_vector
    codomain = dist.constraints.real_vector
    bijective = True

    def __init__(self, half: int, net: DenseNN) -> None:
        super().__init__(cache_size=1)
        self.half, self.nn = half, net
        self._log_slope: Tensor | None = None

    def _call(self, x: Tensor) -> Tensor:
        first, second = x.split((self.half, x.shape[-1] - self.half), dim=-1)
        mean, log_scale = self._affine(first)
        log_scale = log_scale.clamp(*_LOG_SCALES).detach() + (log_scale - log_scale.detach())
        self._log_slope = log_scale.sum(-1)
        return torch.cat([first, torch.addcmul(mean, log_scale.exp(), second)], dim=-1)

    def _inverse(self, y: Tensor) -> Tensor:
        first, second = y.split((self.half, y.shape[-1] - self.half), dim=-1)
        second, self._log_slope = _Inverse.apply(second, *self._affine(first))
        return torch.cat([first, second], dim=-1)

    def _affine(self, first: Tensor) -> tuple[Tensor, Tensor]:
        # Not the network's own forward, whose slices each cost a padded copy in the backward pass.
        *hidden, last = self.nn.layers
        features = first
        for layer in hidden:
            features = self.nn.f(linear(features, layer.weight, layer.bias))
        mean, log_scale = linear(features, last.weight, last.bias).to(first.dtype).chunk(2, dim=-1)
        return mean, log_scale

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of s, shape (...)."""
        known_x, known_y = self._cached_x_y
        if x is not known_x or y is not known_y:
            self(x)
        return self._log_slope


class _Inverse(torch.autograd.Function):
    """(y_2 - m) * exp(-s) and the sum of s."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = log_scale.clamp(*_LOG_SCALES)
        slope = log_scale.neg().exp_()
        x = (y - mean).mul_(slope)
        ctx.save_for_backward(x, slope)
        return x, log_scale.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_x: Tensor, of_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        of_y = of_x * slope
        return of_y, -of_y, torch.addcmul(of_sum.unsqueeze(-1), of_x, x, value=-1)
