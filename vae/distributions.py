"""The prior, the posterior and the likelihood: modules that return Pyro distributions."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """The prior p(z) = N(0, I), over vectors of shape (latent_dim,)."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.mean, self.scale).to_event(1)


class DiagonalNormal(nn.Module):
    """The posterior q(z | x) = N(mean, diag(scale^2)), both linear in the encoder's features (scale by its logarithm).

    Features have shape (..., features), the distribution batch shape (...) and event shape (latent_dim,).
    """

    def __init__(self, features: int, latent_dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(features, 2 * latent_dim)

    def forward(self, features: Tensor) -> dist.Distribution:
        mean, log_scale = self.head(features).chunk(2, dim=-1)
        return dist.Normal(mean, log_scale.exp()).to_event(1)


class Bernoulli(nn.Module):
    """The likelihood p(x | z): independent pixels, each one with the decoder's output as its logit.

    Logits have shape (..., height, width), the distribution batch shape (...) and event shape (height, width).
    On pixels that are not 0 or 1 its `log_prob` is the usual cross-entropy, which is no likelihood.
    """

    def forward(self, logits: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=logits, validate_args=False).to_event(2)

    @staticmethod
    def initial_output(mean_image: Tensor) -> Tensor:
        """The decoder's output at which each pixel has the given mean, of the same shape (Burda et al. 2015)."""
        return torch.logit(mean_image.clamp(0.001, 0.999))
