"""The variational autoencoder: a Pyro model p(x, z), its guide q(z | x), and what users do with them."""

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from vae import storage
from vae.distributions import Bernoulli, DiagonalNormal, StandardNormal
from vae.networks import MLPDecoder, MLPEncoder
from vae.settings import Model


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114).

    With x an image of shape (height, width) and z a latent vector of shape (latent_dim,):

        p(z)      `prior`                      N(0, I)
        p(x | z)  `likelihood(decoder(z))`     independent Bernoulli pixels
        q(z | x)  `posterior(encoder(x))`      N(mean(x), diag(scale(x)^2))

    `model` and `guide` are a Pyro model and guide as `pyro.infer.SVI` takes them. Images go in and come out
    as float tensors of shape (n, height, width) with values from 0 to 1.
    """

    def __init__(self, settings: Model, image_shape: tuple[int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.latent_dim = settings.latent_dim
        self.encoder = MLPEncoder(image_shape, settings.encoder_widths, settings.activation)
        self.posterior = DiagonalNormal(self.encoder.features, settings.latent_dim)
        self.prior = StandardNormal(settings.latent_dim)
        self.decoder = MLPDecoder(settings.latent_dim, settings.decoder_widths, image_shape, settings.activation)
        self.likelihood = Bernoulli()
        self.metadata: dict[str, Any] = {}

    def model(self, images: Tensor) -> None:
        """The joint distribution p(x, z) with x observed; images of shape (n, height, width)."""
        self._register()
        with pyro.plate("images", len(images)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=images)

    def guide(self, images: Tensor) -> None:
        """The approximate posterior q(z | x); images of shape (n, height, width)."""
        self._register()
        with pyro.plate("images", len(images)):
            pyro.sample("z", self.posterior(self.encoder(images)))

    def _register(self) -> None:
        # Under Pyro's `module_local_params` the parameters stay in this module and its owner optimizes them;
        # telling the parameter store of each one would cost a tenth of a small training step.
        if not pyro.settings.get("module_local_params"):
            pyro.module("vae", self)

    def encode(self, images: Tensor) -> dist.Distribution:
        """The posterior q(z | x) of each image: batch shape (n,), event shape (latent_dim,)."""
        return self.posterior(self.encoder(images))

    def decode(self, latents: Tensor) -> Tensor:
        """The mean of p(x | z), shape (..., height, width), for latents of shape (..., latent_dim)."""
        return self.likelihood(self.decoder(latents)).mean

    def reconstruct(self, images: Tensor) -> Tensor:
        """Decode each image's posterior mean; shape (n, height, width)."""
        return self.decode(self.encode(images).mean)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Decode n draws from the prior; shape (n, height, width).

        A generator on the CPU makes the same latent draws whatever device the model is on.
        """
        noise = torch.randn(n, self.latent_dim, generator=generator)
        return self.decode(noise.to(next(self.parameters()).device))


def save(model: VAE, path: str | Path, settings: Model, metadata: dict[str, Any]) -> None:
    """Write the weights, the settings needed to rebuild the model, and what should be known of its training."""
    header = {**metadata, "model": settings.model_dump(), "image_shape": list(model.image_shape)}
    storage.write_tensors(path, model.state_dict(), header)


def load(path: str | Path, device: str = "cpu") -> VAE:
    """Rebuild a saved model, ready to use: in evaluation mode, its parameters fixed, its `metadata` filled in.

    Raises:
        InputError: the file is missing or damaged.
    """
    weights, metadata = storage.read_tensors(path, device)
    model = VAE(Model(**metadata["model"]), tuple(metadata["image_shape"])).to(device)
    model.load_state_dict(weights)
    model.metadata = metadata
    return model.eval().requires_grad_(False)
