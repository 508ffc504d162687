"""The posteriors q(z | features). Features have shape (..., features), the distributions batch shape (...)."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vae.model.distributions import flows
from vae.model.distributions.normal import NormalVector
from vae.model.kernels import Linear
from vae.settings import Model


class DiagonalNormal(nn.Module):
    """N(mean, diag(scale^2)), with mean and log scale linear in the features, or the log variance kept in [-6, 2]."""

    def __init__(self, features: int, dim: int, clipped: bool = False) -> None:
        super().__init__()
        self.head = Linear(features, 2 * dim)
        self.clipped = clipped

    def forward(self, features: Tensor) -> dist.Distribution:
        mean, log_scale = self.head(features).float().chunk(2, dim=-1)
        return NormalVector(mean, log_scale.clamp(-3, 1) if self.clipped else log_scale)


class MultivariateNormal(dist.MultivariateNormal):
    """Pyro's, whose draws autocast leaves in float32: its density is that of mean + L * noise, without rounding."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw vectors, shape sample_shape + (..., dim)."""
        with torch.autocast(self.loc.device.type, enabled=False):
            return super().rsample(sample_shape)


class FullCovariance(nn.Module):
    """N(mean, L L^T) with mean, lower triangular L and the log of L's diagonal linear in the features."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.head = Linear(features, 2 * dim + dim * (dim - 1) // 2)
        rows, columns = torch.tril_indices(dim, dim, offset=-1)
        places = rows * dim + columns
        self.register_buffer("places", places, persistent=False)
        numbers = torch.full((dim * dim,), len(places))
        numbers[places] = torch.arange(len(places))
        self.register_buffer("numbers", numbers, persistent=False)

    def forward(self, features: Tensor) -> dist.Distribution:
        sizes = (self.dim, self.dim, len(self.places))
        mean, log_diagonal, below = self.head(features).float().split(sizes, dim=-1)
        lower = _Placed.apply(below, self.places, self.numbers)
        scale = lower.unflatten(-1, (self.dim, self.dim)) + log_diagonal.exp().diag_embed()
        return MultivariateNormal(mean, scale_tril=scale)


class _Placed(torch.autograd.Function):
    """Numbers (..., m) at `places`, (m,), among zeros; `numbers` says which one is where, m for none.

    Two selections, as `index_copy`, deterministic on a GPU, sorts indices.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, numbers: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return F.pad(values, (0, 1)).index_select(-1, numbers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradient.index_select(-1, places), None, None


class FlowPosterior(nn.Module):
    """A diagonal normal transformed by a flow that also sees the features."""

    def __init__(self, features: int, dim: int, flow: flows.Flow, clipped: bool = False) -> None:
        super().__init__()
        self.base = DiagonalNormal(features, dim, clipped)
        self.flow = flow

    def forward(self, features: Tensor) -> dist.Distribution:
        return self.flow(self.base(features), features)


# A new posterior is one class or function and one line here.
POSTERIORS: dict[str, Callable[[Model, int, int], nn.Module]] = {
    "diagonal_normal": lambda settings, features, dim: DiagonalNormal(features, dim, settings.clip_log_variance),
    "full_covariance": lambda settings, features, dim: FullCovariance(features, dim),
    "iaf": lambda settings, features, dim: FlowPosterior(
        features,
        dim,
        flows.inverse_autoregressive(
            dim, features, settings.flow_widths, settings.posterior_layers, settings.flow_mixing
        ),
        settings.clip_log_variance,
    ),
    "coupling": lambda settings, features, dim: FlowPosterior(
        features,
        dim,
        flows.conditional_affine_coupling(
            dim, features, settings.flow_widths, settings.posterior_layers, settings.flow_mixing
        ),
        settings.clip_log_variance,
    ),
}


def center(distribution: dist.Distribution) -> Tensor:
    """The mean, or for a flow, which has none in closed form, the image of its base's mean; shape (..., dim)."""
    if isinstance(distribution, dist.TransformedDistribution):
        value = center(distribution.base_dist)
        for transform in distribution.transforms:
            value = transform(value)
        return value
    return distribution.mean
