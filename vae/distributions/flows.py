"""Normalizing flows on vectors, from Pyro's own transforms."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from pyro.nn import ConditionalAutoRegressiveNN, ConditionalDenseNN, DenseNN
from torch import Tensor, nn


class Flow(nn.Module):
    """A chain of bijections of vectors of shape (dim,), each followed by a reversal of the vector's order."""

    def __init__(self, layers: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.register_buffer("reversal", torch.arange(dim - 1, -1, -1), persistent=False)

    def forward(self, base: dist.Distribution, context: Tensor | None = None) -> dist.Distribution:
        """The distribution of base's draws after the chain; context of shape (..., features) where layers take one."""
        chain: list[dist.TransformModule] = []
        for layer in self.layers:
            chain += [layer if context is None else layer.condition(context), transforms.Permute(self.reversal)]
        return dist.TransformedDistribution(base, chain)


def affine_coupling(dim: int, widths: Sequence[int], layers: int) -> Flow:
    """Affine coupling layers (RealNVP, Dinh et al. 2017), the identity at first."""
    half = dim // 2
    nets = [_silent(DenseNN(half, widths, [dim - half, dim - half], nonlinearity=nn.SiLU())) for _ in range(layers)]
    return Flow([transforms.AffineCoupling(half, net) for net in nets], dim)


def spline_coupling(dim: int, widths: Sequence[int], layers: int) -> Flow:
    """Rational linear spline coupling layers (Dolatabadi et al. 2020) on [-6, 6], about the identity at first."""
    half, bins = dim // 2, 8
    sizes = [(dim - half) * count for count in (bins, bins, bins - 1, bins)]
    nets = [_silent(DenseNN(half, widths, sizes, nonlinearity=nn.SiLU())) for _ in range(layers)]
    made = [transforms.SplineCoupling(dim, half, net, bins, bound=6.0) for net in nets]
    for layer, net in zip(made, nets, strict=True):
        for parameter in layer.lower_spline.parameters():
            nn.init.zeros_(parameter)
        # A slope of 1 at each knot; Pyro's own start is a wild map.
        slope = math.log(math.expm1(1))
        nn.init.constant_(layer.lower_spline.unnormalized_derivatives, slope)
        nn.init.constant_(net.layers[-1].bias[net.param_slices[2]], slope)
    return Flow(made, dim)


def conditional_affine_coupling(dim: int, features: int, widths: Sequence[int], layers: int) -> Flow:
    """Affine coupling layers that also see a context of size `features`, the identity at first."""
    half = dim // 2
    nets = [
        _silent(ConditionalDenseNN(half, features, widths, [dim - half, dim - half], nonlinearity=nn.SiLU()))
        for _ in range(layers)
    ]
    return Flow([transforms.ConditionalAffineCoupling(half, net) for net in nets], dim)


def inverse_autoregressive(dim: int, features: int, widths: Sequence[int], layers: int) -> Flow:
    """Inverse autoregressive layers (Kingma et al. 2016, section 4) that also see a context; the identity at first."""
    nets = [_silent(ConditionalAutoRegressiveNN(dim, features, widths, nonlinearity=nn.SiLU())) for _ in range(layers)]
    return Flow([transforms.ConditionalAffineAutoregressive(net) for net in nets], dim)


def _silent(net: nn.Module) -> nn.Module:
    nn.init.zeros_(net.layers[-1].weight)
    nn.init.zeros_(net.layers[-1].bias)
    return net
