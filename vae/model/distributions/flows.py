"""Normalizing flows on vectors, most of them from Pyro's own transforms."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from pyro.nn import DenseNN
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vae.model.distributions.autoregressive import (
    ConditionalAffineAutoregressive,
    ContextAutoRegressiveNN,
    ContextNN,
)
from vae.model.distributions.coupling import AffineCouplings
from vae.model.distributions.mixing import LinearMixing
from vae.model.distributions.splines import SplineCoupling


class Flip(dist.transforms.Transform):
    """The reversal of a vector's order; unlike Pyro's `Permute` it needs no index to undo it."""

    domain = dist.constraints.real_vector
    codomain = dist.constraints.real_vector
    bijective = True
    volume_preserving = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Flip)

    def __hash__(self) -> int:
        return hash(Flip)

    def _call(self, x: Tensor) -> Tensor:
        return x.flip(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.flip(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log determinant: zeros, shape (...)."""
        return x.new_zeros(x.shape[:-1])


class FlowDistribution(dist.TransformedDistribution):
    """A `TransformedDistribution` of vectors whose density spends no operation on reversals."""

    def expand(self, batch_shape, _instance=None):
        """The same flow in a larger batch."""
        return super().expand(batch_shape, self._get_checked_instance(FlowDistribution, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of vectors of shape (..., dim), shape (...)."""
        if self._validate_args:
            self._validate_sample(value)
        slopes = []
        for transform in reversed(self.transforms):
            before = transform.inv(value)
            if not (isinstance(transform, Flip) or isinstance(transform.inv, Flip)):
                slopes.append(transform.log_abs_det_jacobian(before, value))
            value = before
        return _Minus.apply(self.base_dist.log_prob(value), *slopes)


class _Minus(torch.autograd.Function):
    """a - b - c - ..., whose backward pass negates once."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, *others: Tensor) -> Tensor:
        ctx.count = 1 + len(others)
        total = first - second
        for other in others:
            total = total.sub_(other)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(gradient.neg(),) * ctx.count


class Flow(nn.Module):
    """A chain of bijections on vectors of shape (dim,), each followed by a mixing of the dimensions.

    That is a reversal, or for `lu` a learned linear map. Its fast direction is the one that trains: the density of a
    flow without a context, which is a prior's, and the draws of one with a context, which is a posterior's.
    """

    def __init__(self, layers: Sequence[nn.Module], mixing: str, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.mixings = nn.ModuleList(LinearMixing(dim) for _ in layers if mixing == "lu")

    def forward(self, base: dist.Distribution, context: Tensor | None = None) -> dist.Distribution:
        """The distribution of draws from `base` after the chain; a context has shape (..., features)."""
        chain: list[dist.TransformModule] = []
        for place, layer in enumerate(self.layers):
            # A transform caches its last result and the graph behind it. A copy of the layer shares its weights, and
            # the copy's cache is freed with this distribution.
            chain.append(copy.copy(layer) if context is None else layer.condition(context))
            mixing = copy.copy(self.mixings[place]) if self.mixings else Flip(cache_size=1)
            chain.append(mixing.inv if context is None else mixing)
        return FlowDistribution(base, chain)


class AffineCouplingFlow(Flow):
    """A chain of affine couplings without a context, whose networks map vectors of shape (..., half)."""

    def __init__(self, half: int, nets: Sequence[DenseNN], mixing: str, dim: int) -> None:
        super().__init__([nn.ModuleDict({"nn": net}) for net in nets], mixing, dim)
        self.half = half

    def forward(self, base: dist.Distribution, context: Tensor | None = None) -> dist.Distribution:
        """The distribution of draws from `base` after the chain."""
        nets = [layer["nn"] for layer in self.layers]
        if not self.mixings:
            return FlowDistribution(base, [AffineCouplings(self.half, nets, reversing=True)])
        chain: list[dist.transforms.Transform] = []
        for net, mixing in zip(nets, self.mixings, strict=True):
            chain += [AffineCouplings(self.half, [net], reversing=False), copy.copy(mixing).inv]
        return FlowDistribution(base, chain)


def affine_coupling(dim: int, widths: Sequence[int], layers: int, mixing: str) -> Flow:
    """Affine coupling layers (RealNVP, Dinh et al. 2017), the identity at first."""
    half = dim // 2
    nets = [_silent(DenseNN(half, widths, [dim - half, dim - half], nonlinearity=nn.SiLU())) for _ in range(layers)]
    return AffineCouplingFlow(half, nets, mixing, dim)


def spline_coupling(dim: int, widths: Sequence[int], layers: int, mixing: str) -> Flow:
    """Rational linear spline coupling layers (Dolatabadi et al. 2020) on [-6, 6], close to the identity at first."""
    half, bins = dim // 2, 8
    sizes = [(dim - half) * count for count in (bins, bins, bins - 1, bins)]
    nets = [_silent(DenseNN(half, widths, sizes, nonlinearity=nn.SiLU())) for _ in range(layers)]
    slope = math.log(math.expm1(1))  # whose softplus is 1
    layers_made = []
    for net in nets:
        layer = SplineCoupling(dim, half, net, bins, bound=6.0)
        nn.init.constant_(layer.slopes, slope)
        nn.init.constant_(net.layers[-1].bias[net.param_slices[2]], slope)
        layers_made.append(layer)
    return Flow(layers_made, mixing, dim)


def conditional_affine_coupling(dim: int, features: int, widths: Sequence[int], layers: int, mixing: str) -> Flow:
    """Affine coupling layers that also see a context of size `features`, the identity at first."""
    half = dim // 2
    nets = [
        _silent(ContextNN(half, features, widths, [dim - half, dim - half], nonlinearity=nn.SiLU()))
        for _ in range(layers)
    ]
    return Flow([transforms.ConditionalAffineCoupling(half, net) for net in nets], mixing, dim)


def inverse_autoregressive(dim: int, features: int, widths: Sequence[int], layers: int, mixing: str) -> Flow:
    """Inverse autoregressive layers (Kingma et al. 2016, section 4) that also see a context; the identity at first."""
    nets = [_silent(ContextAutoRegressiveNN(dim, features, widths, nonlinearity=nn.SiLU())) for _ in range(layers)]
    return Flow([ConditionalAffineAutoregressive(net) for net in nets], mixing, dim)


def _silent(net: nn.Module) -> nn.Module:
    nn.init.zeros_(net.layers[-1].weight)
    nn.init.zeros_(net.layers[-1].bias)
    return net
