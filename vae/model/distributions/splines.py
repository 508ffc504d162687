"""Rational linear splines (Dolatabadi, Erfani & Leckie 2020, arXiv 2001.05168): monotonic maps of the real line.

Equivalent to Pyro's, but without Boolean masks that read the device, so that a step can be captured as a CUDA graph.
"""

from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# The minimum width and height of a bin as a share of the whole, the minimum slope at a knot, and the minimum distance
# of a bin's division point from its ends.
_LEAST_SHARE, _LEAST_SLOPE, _LEAST_LAMBDA = 1e-3, 1e-3, 0.025
_EPSILON = 1e-6  # values this close above a knot belong to the bin below


class Knots(NamedTuple):
    """K bins of the square [-bound, bound]^2: knots, (..., 3, dim, K + 1), and lambda, (..., dim, K).

    A knot k is at (x_k, y_k) with the slope delta_k, which are stacked in this order; lambda_k divides the k-th bin in
    two, as a share of its width.
    """

    knots: Tensor
    lambdas: Tensor
    bound: float


def make_knots(widths: Tensor, heights: Tensor, slopes: Tensor, lambdas: Tensor, bound: float) -> Knots:
    """Knots from unconstrained numbers, (..., dim, K), (..., dim, K), (..., dim, K - 1) and (..., dim, K)."""
    lengths = torch.stack([widths, heights], dim=-3).softmax(dim=-1)
    shares = _LEAST_SHARE + (1 - _LEAST_SHARE * widths.shape[-1]) * lengths
    inner = 2 * bound * shares.cumsum(dim=-1)[..., :-1] - bound
    # Exact ends, which a sum of shares may miss by rounding.
    places = F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)
    # About 1 at both ends, beyond which the map is the identity; Pyro's value, so that densities agree.
    padded = F.pad(_LEAST_SLOPE + F.softplus(slopes), (1, 1), value=1 - _LEAST_SLOPE)
    lambdas = _LEAST_LAMBDA + (1 - 2 * _LEAST_LAMBDA) * lambdas.sigmoid()
    return Knots(torch.cat([places, padded.unsqueeze(-3)], dim=-3), lambdas, bound)


class _Bin(NamedTuple):
    """One bin per value, in the paper's notation: from (x_a, y_a) through (x_c, y_c) to (x_b, y_b), with weights w."""

    x_a: Tensor
    width: Tensor
    y_a: Tensor
    y_b: Tensor
    y_c: Tensor
    w_b: Tensor  # with w_a = 1
    w_c: Tensor
    lambda_: Tensor

    def piece(self, lower: Tensor) -> "_Piece":
        """The part of the bin up to the division point where `lower`, or else the part from there on."""

        def either(below: Tensor | float, above: Tensor | float) -> Tensor:
            return torch.where(lower, below, above)

        return _Piece(
            theta_l=either(0.0, self.lambda_),
            theta_r=either(self.lambda_, 1.0),
            y_l=either(self.y_a, self.y_c),
            y_r=either(self.y_c, self.y_b),
            w_l=either(1.0, self.w_c),
            w_r=either(self.w_c, self.w_b),
        )


class _Piece(NamedTuple):
    """One part of a bin per value, from (theta_l, y_l) to (theta_r, y_r), with weights w."""

    theta_l: Tensor
    theta_r: Tensor
    y_l: Tensor
    y_r: Tensor
    w_l: Tensor
    w_r: Tensor

    def log_numerator(self) -> Tensor:
        """The logarithm of the derivative's numerator, of the map with respect to theta."""
        return (self.w_l * self.w_r * (self.theta_r - self.theta_l) * (self.y_r - self.y_l)).log()


def _bins(at: Tensor, values: Tensor, spline: Knots) -> _Bin:
    """The bin of each value, (..., dim), among knots `at`, (..., dim, K + 1); values outside get the nearest bin."""
    index = (values.unsqueeze(-1) >= at[..., 1:-1] + _EPSILON).sum(dim=-1, keepdim=True)
    batch = index.shape[:-2]
    knots, lambdas = spline.knots.expand(*batch, -1, -1, -1), spline.lambdas.expand(*batch, -1, -1)
    (x_a, y_a, delta_a), (x_b, y_b, delta_b) = (
        _Chosen.apply(knots, (index + step).unsqueeze(-3)).unbind(-2) for step in (0, 1)
    )
    lambda_ = _Chosen.apply(lambdas, index)
    width = x_b - x_a
    # Equations 6 to 8, with w_a = 1: continuous slopes, and a division point on the curve.
    w_b = (delta_a / delta_b).sqrt()
    w_c = (lambda_ * delta_a + (1 - lambda_) * w_b * delta_b) * width / (y_b - y_a)
    y_c = ((1 - lambda_) * y_a + lambda_ * w_b * y_b) / (1 - lambda_ + lambda_ * w_b)
    return _Bin(x_a, width, y_a, y_b, y_c, w_b, w_c, lambda_)


class _Chosen(torch.autograd.Function):
    """The parameters, (..., K), at an index, (..., 1), as `gather`; shape (...).

    The gradient of `gather` adds at indices, which a GPU in deterministic mode sorts first; this one compares.
    """

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = parameters.shape[-1]
        return parameters.gather(-1, index.expand(*parameters.shape[:-1], 1)).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        here = index == torch.arange(ctx.size, device=index.device)
        return gradient.unsqueeze(-1) * here, None


def forward(x: Tensor, spline: Knots) -> tuple[Tensor, Tensor]:
    """The map and its log slope at x, (..., dim); the identity beyond the outer knots."""
    inside = x.abs() <= spline.bound
    # Values that `where` discards must be finite too, or the gradient is NaN.
    clamped = torch.where(inside, x, torch.zeros_like(x))
    b = _bins(spline.knots[..., 0, :, :], clamped, spline)
    theta = (clamped - b.x_a) / b.width
    p = b.piece(theta <= b.lambda_)
    # Equation 5: a ratio of two linear functions on either side of the division point.
    left, right = p.w_l * (p.theta_r - theta), p.w_r * (theta - p.theta_l)
    denominator = left + right
    numerator = left * p.y_l + right * p.y_r
    log_slope = p.log_numerator() - b.width.log() - 2 * denominator.log()
    return torch.where(inside, numerator / denominator, x), torch.where(inside, log_slope, torch.zeros_like(x))


def inverse(y: Tensor, spline: Knots) -> tuple[Tensor, Tensor]:
    """The inverse map at y, (..., dim), and the log slope of the forward map there."""
    inside = y.abs() <= spline.bound
    clamped = torch.where(inside, y, torch.zeros_like(y))
    b = _bins(spline.knots[..., 1, :, :], clamped, spline)
    p = b.piece(clamped <= b.y_c)
    # Equation 5 solved for theta.
    left, right = p.w_l * (clamped - p.y_l), p.w_r * (p.y_r - clamped)
    denominator = left + right
    x = (left * p.theta_r + right * p.theta_l) / denominator * b.width + b.x_a
    log_slope = 2 * denominator.log() - p.log_numerator() - b.width.log()
    return torch.where(inside, x, y), torch.where(inside, log_slope, torch.zeros_like(y))


class SplineCoupling(dist.TransformModule):
    """A coupling layer: learned splines for the first `half` dimensions, splines from a network for the others.

    The network maps the first dimensions, (..., half), to the unconstrained widths, heights, slopes and lambdas of
    the others' splines, each of shape (..., (dim - half) * numbers).
    """

    domain = dist.constraints.real_vector
    codomain = dist.constraints.real_vector
    bijective = True

    def __init__(self, dim: int, half: int, net: nn.Module, bins: int, bound: float) -> None:
        super().__init__(cache_size=1)
        self.dim, self.half, self.net, self.bound = dim, half, net, bound
        self.widths, self.heights, self.lambdas = (nn.Parameter(torch.zeros(half, bins)) for _ in range(3))
        self.slopes = nn.Parameter(torch.zeros(half, bins - 1))
        self._log_slopes: Tensor | None = None

    def _own(self) -> Knots:
        return make_knots(self.widths, self.heights, self.slopes, self.lambdas, self.bound)

    def _given(self, first: Tensor) -> Knots:
        # Under autocast the network's output is bfloat16, too coarse for knots.
        answers = (part.to(first.dtype) for part in self.net(first))
        return make_knots(*(part.unflatten(-1, (self.dim - self.half, -1)) for part in answers), self.bound)

    def _call(self, x: Tensor) -> Tensor:
        first, second = x.split((self.half, self.dim - self.half), dim=-1)
        (second, others), (first, slopes) = forward(second, self._given(first)), forward(first, self._own())
        self._log_slopes = torch.cat([others, slopes], dim=-1)
        return torch.cat([first, second], dim=-1)

    def _inverse(self, y: Tensor) -> Tensor:
        first, second = y.split((self.half, self.dim - self.half), dim=-1)
        first, slopes = inverse(first, self._own())
        second, others = inverse(second, self._given(first))
        self._log_slopes = torch.cat([others, slopes], dim=-1)
        return torch.cat([first, second], dim=-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of all log slopes, shape (...)."""
        known_x, known_y = self._cached_x_y
        if x is not known_x or y is not known_y:
            self(x)
        return self._log_slopes.sum(dim=-1)
