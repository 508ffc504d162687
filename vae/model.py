"""The variational autoencoder: a Pyro model p(x, z), its guide q(z | x), and what users do with them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn import functional as F

from vae import storage
from vae.distributions.likelihoods import LIKELIHOODS
from vae.distributions.posteriors import POSTERIORS, centre
from vae.distributions.priors import PRIORS
from vae.errors import InputError
from vae.networks import inner_layers, make_decoder, make_encoder
from vae.settings import Model


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114), conditional on a label where it has classes.

    With x an image of shape (height, width), z a latent vector of shape (latent_dim,) and y a label (or nothing):

        p(z)         `prior`                       N(0, I), a mixture or a flow
        p(x | z, y)  `likelihood(decoder(z, y))`   independent pixels
        q(z | x, y)  `posterior(encoder(x, y))`    a normal or a flow

    `model` and `guide` are a Pyro model and guide as `pyro.infer.SVI` takes them. Images go in and come out
    as float tensors of shape (n, height, width) with values from 0 to 1, labels as int64 tensors of shape (n,).
    """

    latent_sites: tuple[str, ...] = ("z",)

    def __init__(self, settings: Model, image_shape: tuple[int, int], classes: int = 0) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.classes = classes if settings.condition == "label" else 0
        self.latent_dim = settings.latent_dim
        self.metadata: dict[str, Any] = {}
        self.likelihood = LIKELIHOODS[settings.likelihood]()
        if self.classes:
            self.label_image = nn.Linear(self.classes, image_shape[0] * image_shape[1])
        self._make_parts(settings)

    def _make_parts(self, settings: Model) -> None:
        self.encoder = make_encoder(settings, 2 if self.classes else 1, self.image_shape)
        self.posterior = POSTERIORS[settings.posterior](settings, self.encoder.features, self.latent_dim)
        self.prior = PRIORS[settings.prior](settings, self.latent_dim, self.image_shape)
        self.decoder = make_decoder(
            settings, self.latent_dim + self.classes, self.likelihood.channels, self.image_shape
        )

    def model(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The joint distribution p(x, z | y) with x observed."""
        self._register()
        with pyro.plate("images", len(images)):
            z = pyro.sample("z", self.prior(self.encode))
            pyro.sample("x", self.pixels(z, labels), obs=images)

    def guide(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The approximate posterior q(z | x, y)."""
        self._register()
        with pyro.plate("images", len(images)):
            pyro.sample("z", self.encode(images, labels))

    def _register(self) -> None:
        # Under Pyro's `module_local_params` the parameters stay in this module and its owner optimizes them;
        # telling the parameter store of each one would cost a tenth of a small training step.
        if not pyro.settings.get("module_local_params"):
            pyro.module("vae", self)

    def encode(self, images: Tensor, labels: Tensor | None = None) -> dist.Distribution:
        """The posterior q(z | x, y) of each image: batch shape (n,), event shape (latent_dim,)."""
        return self.posterior(self.features(images, labels))

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the encoder makes of images and labels, shape (n, features)."""
        channels = images.unsqueeze(-3)
        if self.classes:
            shown = self.label_image(self._one_hot(labels, images.shape[:-2])).unflatten(-1, self.image_shape)
            channels = torch.stack([images, shown], dim=-3)
        return self.encoder(channels)

    def pixels(self, latents: Tensor, labels: Tensor | None = None) -> dist.Distribution:
        """The likelihood p(x | z, y) for latents of shape (..., latent_dim): event shape (height, width)."""
        if self.classes:
            latents = torch.cat([latents, self._one_hot(labels, latents.shape[:-1])], dim=-1)
        return self.likelihood(self.decoder(latents).float())

    def _one_hot(self, labels: Tensor | None, shape: torch.Size) -> Tensor:
        if labels is None:
            raise ValueError("the model is conditional: give the images' labels too")
        return F.one_hot(labels, self.classes).float().expand(*shape, -1)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean of p(x | z, y), shape (..., height, width), for latents of shape (..., latent_dim)."""
        return self.pixels(latents, labels).mean

    def represent(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The posterior's mean (of a flow: its centre), shape (n, latent_dim)."""
        return centre(self.encode(images, labels))

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Decode each image's representation; shape (n, height, width)."""
        return self.decode(self.represent(images, labels), labels)

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Decode n draws from the prior; shape (n, height, width). Equal seeds give equal draws on a device."""
        return self.draw_prior(n, seed, labels)[1].mean

    def draw_prior(self, n: int, seed: int, labels: Tensor | None = None) -> tuple[Tensor, dist.Distribution]:
        """Draw n latents from the prior, shape (n, latent_dim), and give the pixels' distribution at each of them."""
        images = torch.empty(n, *self.image_shape, device=next(self.parameters()).device)
        with _seeded(seed, images.device):
            trace = poutine.trace(poutine.uncondition(self.model)).get_trace(images, labels)
        return self._latents(trace), trace.nodes["x"]["fn"]

    def draw_posterior(self, images: Tensor, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Draw n latents from each image's posterior; shape (n, images, latent_dim)."""
        with _seeded(seed, images.device), pyro.plate("draws", n, dim=-2):
            return self._latents(poutine.trace(self.guide).get_trace(images, labels))

    def _latents(self, trace: poutine.Trace) -> Tensor:
        return torch.cat([trace.nodes[name]["value"] for name in self.latent_sites], dim=-1)


class TwoLevelVAE(VAE):
    """A variational autoencoder with two levels of latent vectors, z1 next to the image and z2 above it.

    `iwae` (Burda et al. 2015):           p(z2) p(z1 | z2) p(x | z1),     q(z1 | x) q(z2 | z1)
    `hvae` (Tomczak & Welling 2018, 4.1): p(z2) p(z1 | z2) p(x | z1, z2), q(z2 | x) q(z1 | x, z2)

    A representation is z1 followed by z2, of size `latent_dim` together; `encode` gives the posterior of the level
    that the guide draws first.
    """

    latent_sites = ("z1", "z2")

    def _make_parts(self, settings: Model) -> None:
        self.hvae = settings.levels == "hvae"
        self.sizes = (settings.latent_dim, settings.top_dim)
        bottom, top = self.sizes
        self.latent_dim = bottom + top
        self.encoder = make_encoder(settings, 2 if self.classes else 1, self.image_shape)
        features = self.encoder.features
        self.posterior = POSTERIORS[settings.posterior](settings, features, top if self.hvae else bottom)
        self.inner_posterior = InnerLevel(
            settings, features + top if self.hvae else bottom, bottom if self.hvae else top
        )
        self.inner_prior = InnerLevel(settings, top, bottom)
        self.prior = PRIORS[settings.prior](settings, top, self.image_shape)
        inputs = (bottom + top if self.hvae else bottom) + self.classes
        self.decoder = make_decoder(settings, inputs, self.likelihood.channels, self.image_shape)

    def model(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The joint distribution p(x, z1, z2 | y) with x observed."""
        self._register()
        with pyro.plate("images", len(images)):
            z2 = pyro.sample("z2", self.prior(self.encode))
            z1 = pyro.sample("z1", self.inner_prior(z2))
            pyro.sample("x", self.pixels(torch.cat([z1, z2], dim=-1) if self.hvae else z1, labels), obs=images)

    def guide(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The approximate posterior q(z1, z2 | x, y)."""
        self._register()
        features = self.features(images, labels)
        with pyro.plate("images", len(images)):
            if self.hvae:
                z2 = pyro.sample("z2", self.posterior(features))
                pyro.sample("z1", self.inner_posterior(_joined(features, z2)))
            else:
                z1 = pyro.sample("z1", self.posterior(features))
                pyro.sample("z2", self.inner_posterior(z1))

    def pixels(self, latents: Tensor, labels: Tensor | None = None) -> dist.Distribution:
        """The likelihood p(x | z1, z2, y) for representations of shape (..., latent_dim)."""
        return super().pixels(latents if self.hvae else latents[..., : self.sizes[0]], labels)

    def represent(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The posterior means of z1 and z2, each given the other's where it depends on it; shape (n, latent_dim)."""
        features = self.features(images, labels)
        first = centre(self.posterior(features))
        second = centre(self.inner_posterior(_joined(features, first) if self.hvae else first))
        return torch.cat([second, first] if self.hvae else [first, second], dim=-1)


class InnerLevel(nn.Module):
    """The distribution of one level of latent vectors given another: a network and a diagonal normal on top.

    Inputs have shape (..., inputs), the distribution batch shape (...) and event shape (dim,).
    """

    def __init__(self, settings: Model, inputs: int, dim: int) -> None:
        super().__init__()
        self.layers = inner_layers(settings, inputs)
        self.normal = POSTERIORS["diagonal_normal"](settings, [inputs, *settings.inner_widths][-1], dim)

    def forward(self, inputs: Tensor) -> dist.Distribution:
        return self.normal(self.layers(inputs))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw with a seed of one's own, and let the callers' random numbers go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _joined(features: Tensor, latents: Tensor) -> Tensor:
    return torch.cat([features.expand(*latents.shape[:-1], -1), latents], dim=-1)


def make_model(settings: Model, image_shape: tuple[int, int], classes: int) -> VAE:
    """The model that the settings name, for images of `classes` classes."""
    return (VAE if settings.levels == "one" else TwoLevelVAE)(settings, image_shape, classes)


def save(model: VAE, path: str | Path, settings: Model, metadata: dict[str, Any]) -> None:
    """Write the weights, the settings needed to rebuild the model, and what should be known of its training.

    The metadata must hold `classes`, the names of the data set's classes.
    """
    header = {**metadata, "model": settings.model_dump(), "image_shape": list(model.image_shape)}
    storage.write_tensors(path, model.state_dict(), header)


def load(path: str | Path, device: str = "cpu") -> VAE:
    """Rebuild a saved model, ready to use: in evaluation mode, its parameters fixed, its `metadata` filled in.

    Raises:
        InputError: the file is missing or damaged.
    """
    weights, metadata = storage.read_tensors(path, device)
    try:
        shape = tuple(metadata["image_shape"])
        model = make_model(Model(**metadata["model"]), shape, len(metadata["classes"])).to(device)
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: no model that this code can read ({error}); run `dvc repro`") from error
    model.metadata = metadata
    return model.eval().requires_grad_(False)
