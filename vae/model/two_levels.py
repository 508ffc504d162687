"""Two levels of latent vectors: z1 next to the image, z2 above it.

A representation is z1 followed by z2; `encode` gives the posterior of the level that the guide draws first.
"""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from vae.model.distributions.posteriors import POSTERIORS, center
from vae.model.networks import dense_layers
from vae.model.vae import VAE
from vae.settings import Model


class InnerLevel(nn.Module):
    """The distribution of one level of latent vectors given another: a network and a diagonal normal.

    Inputs have shape (..., inputs), the distribution batch shape (...) and event shape (dim,).
    """

    def __init__(self, settings: Model, inputs: int, dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = dense_layers(settings, inputs, widths)
        self.normal = POSTERIORS["diagonal_normal"](settings, [inputs, *widths][-1], dim)

    def forward(self, inputs: Tensor) -> dist.Distribution:
        return self.normal(self.layers(inputs))


class ChainVAE(VAE):
    """The chain of Burda et al. (2015), in which each level depends only on its neighbors.

    p(z2) p(z1 | z2) p(x | z1) with the guide q(z1 | x) q(z2 | z1).
    """

    def _make_parts(self) -> dict[str, tuple[int, ...]]:
        settings, bottom, top = self.settings, self.settings.latent_dim, self.settings.top_dim
        self.encoder = self._make_encoder(settings)
        self.posterior = POSTERIORS[settings.posterior](settings, self.encoder.features, bottom)
        self.inner_posterior = InnerLevel(settings, bottom, top, settings.inner_widths)
        self.inner_prior = InnerLevel(settings, top, bottom, settings.inner_widths)
        self.prior = self._make_prior(top)
        self.decoder = self._make_decoder(settings, bottom + self.classes)
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
        self.encoder = self._make_encoder(settings)
        self.posterior = POSTERIORS[settings.posterior](settings, self.encoder.features, top)
        self.inner_posterior = InnerLevel(settings, self.encoder.features + top, bottom, settings.inner_widths)
        self.inner_prior = InnerLevel(settings, top, bottom, settings.inner_widths)
        self.prior = self._make_prior(top)
        self.decoder = self._make_decoder(settings, bottom + top + self.classes)
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
        upper, lower = self._features_of_levels(images, labels)
        with pyro.plate("images", len(images)):
            z2 = pyro.sample("z2", self.posterior(upper))
            pyro.sample("z1", self._lower_posterior(lower, z2))

    def representation_given(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean of q(z1 | x, z2) given the mean of q(z2 | x), then the latter; shape (n, latent_dim)."""
        upper, lower = self._features_of_levels(images, labels)
        z2 = center(self.posterior(upper))
        return torch.cat([center(self._lower_posterior(lower, z2)), z2], dim=-1)

    def _features_of_levels(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """What q(z2 | x) and q(z1 | x, z2) see of the images, each of shape (n, features)."""
        features = self.features(images, labels)
        return features, features

    def _lower_posterior(self, features: Tensor, z2: Tensor) -> dist.Distribution:
        """q(z1 | x, z2), for z2 of shape (..., n, top_dim)."""
        return self.inner_posterior(torch.cat([features.expand(*z2.shape[:-1], -1), z2], dim=-1))


class BranchedHVAE(HierarchicalVAE):
    """The same levels with the networks of Tomczak & Welling's code, in which separate branches are joined.

    In q(z1 | x, z2) the image has an encoder of its own, made of the first of `encoder_widths`, and z2 a layer of the
    first of `inner_widths`, whose others follow the join. In p(x | z1, z2) each level has a layer of the first of
    `decoder_widths`, whose others follow.
    """

    def _make_parts(self) -> dict[str, tuple[int, ...]]:
        settings, bottom, top = self.settings, self.settings.latent_dim, self.settings.top_dim
        inner, outer = settings.inner_widths, settings.decoder_widths
        self.encoder = self._make_encoder(settings)
        self.posterior = POSTERIORS[settings.posterior](settings, self.encoder.features, top)
        self.lower_encoder = self._make_encoder(
            settings.model_copy(update={"encoder_widths": settings.encoder_widths[:1]})
        )
        self.top_branch = dense_layers(settings, top, inner[:1])
        joined = self.lower_encoder.features + [top, *inner[:1]][-1]
        self.inner_posterior = InnerLevel(settings, joined, bottom, inner[1:])
        self.inner_prior = InnerLevel(settings, top, bottom, inner)
        self.prior = self._make_prior(top)
        sizes = [bottom, top + self.classes]
        joined = sum([size, *outer[:1]][-1] for size in sizes)
        rest = self._make_decoder(settings.model_copy(update={"decoder_widths": outer[1:]}), joined)
        self.decoder = BranchedDecoder([dense_layers(settings, size, outer[:1]) for size in sizes], sizes, rest)
        return {"z1": (bottom,), "z2": (top,)}

    def _features_of_levels(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        shown = self._shown(images, labels)
        return self.encoder(shown), self.lower_encoder(shown)

    def _lower_posterior(self, features: Tensor, z2: Tensor) -> dist.Distribution:
        return super()._lower_posterior(features, self.top_branch(z2))


class BranchedDecoder(nn.Module):
    """A decoder of vectors that are split into parts of the given sizes, each with layers of its own at first."""

    def __init__(self, branches: Sequence[nn.Module], sizes: Sequence[int], decoder: nn.Module) -> None:
        super().__init__()
        self.branches, self.sizes, self.decoder = nn.ModuleList(branches), list(sizes), decoder

    @property
    def bias(self) -> Tensor:
        """What the last layer adds, shape (channels, height, width)."""
        return self.decoder.bias

    def forward(self, latents: Tensor) -> Tensor:
        parts = latents.split(self.sizes, dim=-1)
        return self.decoder(
            torch.cat([branch(part) for branch, part in zip(self.branches, parts, strict=True)], dim=-1)
        )
