"""Two levels of latent vectors: z1 next to the image, z2 above it.

A representation is z1 followed by z2; `encode` gives the posterior of the level that the guide draws first.
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from vae.model.distributions.posteriors import POSTERIORS, center
from vae.model.networks import inner_layers
from vae.model.vae import VAE
from vae.settings import Model


class InnerLevel(nn.Module):
    """The distribution of one level of latent vectors given another: a network and a diagonal normal.

    Inputs have shape (..., inputs), the distribution batch shape (...) and event shape (dim,).
    """

    def __init__(self, settings: Model, inputs: int, dim: int) -> None:
        super().__init__()
        self.layers = inner_layers(settings, inputs)
        self.normal = POSTERIORS["diagonal_normal"](settings, [inputs, *settings.inner_widths][-1], dim)

    def forward(self, inputs: Tensor) -> dist.Distribution:
        return self.normal(self.layers(inputs))


class ChainVAE(VAE):
    """The chain of Burda et al. (2015), in which each level depends only on its neighbors.

    p(z2) p(z1 | z2) p(x | z1) with the guide q(z1 | x) q(z2 | z1).
    """

    def _make_parts(self) -> dict[str, tuple[int, ...]]:
        settings, bottom, top = self.settings, self.settings.latent_dim, self.settings.top_dim
        self.encoder = self._make_encoder()
        self.posterior = POSTERIORS[settings.posterior](settings, self.encoder.features, bottom)
        self.inner_posterior = InnerLevel(settings, bottom, top)
        self.inner_prior = InnerLevel(settings, top, bottom)
        self.prior = self._make_prior(top)
        self.decoder = self._make_decoder(bottom)
        return {"z1": (bottom,), "z2": (top,)}

    def model(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The joint distribution p(x, z1, z2 | y) with x observed."""
        self._register()
        with pyro.plate("images", len(images)):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.inner_prior(z2))
            pyro.sample("x", super().image_given(z1, labels), obs=images)

    def guide(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The approximate posterior q(z1, z2 | x, y)."""
        self._register()
        q = self.posterior_given(images, labels)
        with pyro.plate("images", len(images)):
            z1 = pyro.sample("z1", q)
            pyro.sample("z2", self.inner_posterior(z1))

    def image_given(self, latents: Tensor, labels: Tensor | None = None) -> dist.Distribution:
        """p(x | z1, y) for representations of shape (..., latent_dim), whose z2 is ignored."""
        return super().image_given(latents[..., : self.settings.latent_dim], labels)

    def representation_given(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean of q(z1 | x), then the mean of q(z2 | z1) given it; shape (n, latent_dim)."""
        z1 = super().representation_given(images, labels)
        return torch.cat([z1, center(self.inner_posterior(z1))], dim=-1)


class HierarchicalVAE(VAE):
    """The HVAE of Tomczak & Welling (2018, section 4.1), in which the image and the guide see both levels.

    p(z2) p(z1 | z2) p(x | z1, z2) with the guide q(z2 | x) q(z1 | x, z2).
    """

    def _make_parts(self) -> dict[str, tuple[int, ...]]:
        settings, bottom, top = self.settings, self.settings.latent_dim, self.settings.top_dim
        self.encoder = self._make_encoder()
        self.posterior = POSTERIORS[settings.posterior](settings, self.encoder.features, top)
        self.inner_posterior = InnerLevel(settings, self.encoder.features + top, bottom)
        self.inner_prior = InnerLevel(settings, top, bottom)
        self.prior = self._make_prior(top)
        self.decoder = self._make_decoder(bottom + top)
        return {"z1": (bottom,), "z2": (top,)}

    def model(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The joint distribution p(x, z1, z2 | y) with x observed."""
        self._register()
        with pyro.plate("images", len(images)):
            z2 = pyro.sample("z2", self.prior())
            z1 = pyro.sample("z1", self.inner_prior(z2))
            pyro.sample("x", self.image_given(torch.cat([z1, z2], dim=-1), labels), obs=images)

    def guide(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The approximate posterior q(z1, z2 | x, y)."""
        self._register()
        features = self.features(images, labels)
        with pyro.plate("images", len(images)):
            z2 = pyro.sample("z2", self.posterior(features))
            pyro.sample("z1", self._lower_posterior(features, z2))

    def representation_given(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean of q(z1 | x, z2) given the mean of q(z2 | x), then the latter; shape (n, latent_dim)."""
        features = self.features(images, labels)
        z2 = center(self.posterior(features))
        return torch.cat([center(self._lower_posterior(features, z2)), z2], dim=-1)

    def _lower_posterior(self, features: Tensor, z2: Tensor) -> dist.Distribution:
        """q(z1 | x, z2), for z2 of shape (..., n, top_dim)."""
        return self.inner_posterior(torch.cat([features.expand(*z2.shape[:-1], -1), z2], dim=-1))
