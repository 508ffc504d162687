"""The posteriors q(z | features). Features have shape (..., features), the distributions batch shape (...)."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from vae.model.distributions import flows
from vae.model.distributions.normal import NormalVector
from vae.model.kernels import Linear
from vae.settings import Model


class DiagonalNormal(nn.Module):
    """N(mean, diag(scale^2)), with mean and log scale linear in the features."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.head = Linear(features, 2 * dim)

    def forward(self, features: Tensor) -> dist.Distribution:
        mean, log_scale = self.head(features).float().chunk(2, dim=-1)
        return NormalVector(mean, log_scale)


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
        self.register_buffer("below", rows * dim + columns, persistent=False)

    def forward(self, features: Tensor) -> dist.Distribution:
        sizes = (self.dim, self.dim, len(self.below))
        mean, log_diagonal, below = self.head(features).float().split(sizes, dim=-1)
        lower = below.new_zeros(*below.shape[:-1], self.dim**2).index_copy(-1, self.below, below)
        scale = lower.unflatten(-1, (self.dim, self.dim)) + log_diagonal.exp().diag_embed()
        return MultivariateNormal(mean, scale_tril=scale)


class FlowPosterior(nn.Module):
    """A diagonal normal transformed by a flow that also sees the features."""

    def __init__(self, features: int, dim: int, flow: flows.Flow) -> None:
        super().__init__()
        self.base = DiagonalNormal(features, dim)
        self.flow = flow

    def forward(self, features: Tensor) -> dist.Distribution:
        return self.flow(self.base(features), features)


# A new posterior is one class or function and one line here.
POSTERIORS: dict[str, Callable[[Model, int, int], nn.Module]] = {
    "diagonal_normal": lambda settings, features, dim: DiagonalNormal(features, dim),
    "full_covariance": lambda settings, features, dim: FullCovariance(features, dim),
    "iaf": lambda settings, features, dim: FlowPosterior(
        features, dim, flows.inverse_autoregressive(dim, features, settings.flow_widths, settings.posterior_layers)
    ),
    "coupling": lambda settings, features, dim: FlowPosterior(
        features, dim, flows.conditional_affine_coupling(dim, features, settings.flow_widths, settings.posterior_layers)
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
