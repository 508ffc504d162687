"""The priors p(z). Each is a module whose forward returns a distribution with batch shape () and event shape (dim,)."""

import math
from collections.abc import Callable
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from vae.model.distributions import flows
from vae.model.distributions.normal import StandardNormalVector
from vae.settings import Model

ImageShape = tuple[int, int, int]  # channels, height, width
Posterior = Callable[[Tensor], dist.Distribution]


class StandardNormal(nn.Module):
    """N(0, I)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim), persistent=False)
        self.register_buffer("scale", torch.ones(dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return StandardNormalVector(self.mean, self.scale)


class NormalMixture(dist.TorchDistribution):
    """A mixture of k diagonal normals with means and scales of shape (k, dim) and log weights of shape (k,).

    The same density as `MixtureSameFamily`, by two matrix products instead of a tensor of shape (..., k, dim).
    """

    arg_constraints: ClassVar[dict] = {}
    support = dist.constraints.real_vector

    def __init__(self, means: Tensor, scales: Tensor, log_weights: Tensor) -> None:
        self.means, self.scales, self.log_weights = means, scales, log_weights
        super().__init__(event_shape=means.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        """Independent copies, as needed in a plate."""
        return dist.ExpandedDistribution(self, batch_shape)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Draw a component, then a vector from it; shape sample_shape + (dim,)."""
        chosen = dist.Categorical(logits=self.log_weights).sample(sample_shape)
        return dist.Normal(self.means[chosen], self.scales[chosen]).sample()

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of values of shape (..., dim), shape (...)."""
        # Differences of products that are large where scales are small: at scales of 0.03, float32 would be wrong by a
        # tenth of a nat and bfloat16 by many. Autocast leaves float64 alone.
        z, means, scales = value.double(), self.means.double(), self.scales.double()
        precisions = scales**-2
        constants = (
            self.log_weights.double().log_softmax(-1)
            - scales.log().sum(-1)
            - 0.5 * (means.square() * precisions).sum(-1)
            - 0.5 * means.shape[-1] * math.log(2 * math.pi)
        )
        products = z @ (means * precisions).T - 0.5 * z.square() @ precisions.T
        return (products + constants).to(value.dtype).logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        """The mixture's mean, shape (dim,)."""
        return self.log_weights.softmax(-1) @ self.means


class GaussianMixture(nn.Module):
    """A mixture of `components` diagonal normals with learned weights, means and scales."""

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        # Spread over the standard normal, so that components start apart.
        self.means = nn.Parameter(torch.randn(components, dim) / 2)
        self.log_scales = nn.Parameter(torch.zeros(components, dim))
        self.log_weights = nn.Parameter(torch.zeros(components))

    def forward(self) -> dist.Distribution:
        return NormalMixture(self.means, self.log_scales.exp(), self.log_weights)


class VampPrior(nn.Module):
    """The mean of q(z | u) over learned pseudo-inputs u (Tomczak & Welling 2018, equation 9).

    `posterior` maps images, float (k, channels, height, width), to diagonal normals q(z | x). It is a method of the
    encoder's owner rather than a module, so that the encoder's weights are not listed twice. `initialize` starts the
    pseudo-inputs from training images, of shape (at most components, channels, height, width).
    """

    def __init__(self, image_shape: ImageShape, components: int, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior
        self.logits = nn.Parameter(torch.randn(components, *image_shape))
        self.register_buffer("log_weights", torch.zeros(components), persistent=False)

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Set pseudo-inputs to images with values in [0, 1]; if there are too few, the others stay random."""
        self.logits[: len(images)].copy_(images.clamp(0.05, 0.95).logit())

    def forward(self) -> dist.Distribution:
        normal = self.posterior(self.logits.sigmoid()).base_dist
        return NormalMixture(normal.loc, normal.scale, self.log_weights)


class FlowPrior(nn.Module):
    """A standard normal transformed by a flow."""

    def __init__(self, dim: int, flow: flows.Flow) -> None:
        super().__init__()
        self.base = StandardNormal(dim)
        self.flow = flow

    def forward(self) -> dist.Distribution:
        return self.flow(self.base())


# A new prior is one class or function and one line here.
PRIORS: dict[str, Callable[[Model, int, ImageShape, Posterior], nn.Module]] = {
    "standard_normal": lambda settings, dim, shape, posterior: StandardNormal(dim),
    "gaussian_mixture": lambda settings, dim, shape, posterior: GaussianMixture(dim, settings.prior_components),
    "vampprior": lambda settings, dim, shape, posterior: VampPrior(shape, settings.prior_components, posterior),
    "realnvp": lambda settings, dim, shape, posterior: FlowPrior(
        dim, flows.affine_coupling(dim, settings.flow_widths, settings.prior_layers, settings.flow_mixing)
    ),
    "spline": lambda settings, dim, shape, posterior: FlowPrior(
        dim, flows.spline_coupling(dim, settings.flow_widths, settings.prior_layers, settings.flow_mixing)
    ),
}
