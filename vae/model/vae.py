"""The variational autoencoder: a Pyro model p(x, z), its guide q(z | x), and methods to use it."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from vae.device import seeded
from vae.model.distributions.likelihoods import LIKELIHOODS
from vae.model.distributions.posteriors import POSTERIORS, center
from vae.model.distributions.priors import PRIORS
from vae.model.inputs import check_count, check_images, check_labels, check_latents
from vae.model.networks import make_decoder, make_encoder
from vae.settings import Model


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114), conditional on a label if it has classes.

    With x an image of shape (channels, height, width), z a latent vector of shape (latent_dim,) and y a label (or
    nothing):

        p(z)         `prior`                       N(0, I), a mixture or a flow
        p(x | z, y)  `likelihood(decoder(z, y))`   independent pixels
        q(z | x, y)  `posterior(encoder(x, y))`    a normal or a flow

    `model` and `guide` are a Pyro model and guide as `pyro.infer.SVI` takes them. Images go in and come out as float
    tensors of shape (n, channels, height, width) with values from 0 to 1, labels as int64 tensors of shape (n,).
    `encode`, `represent`, `reconstruct`, `decode` and `sample` check their inputs and raise ValueError or TypeError;
    methods named `..._given` check nothing, and the other methods do not check values.

    Attributes:
        settings: the `model` section of the settings.
        image_shape: channels, height and width.
        classes: the number of labels, 0 for an unconditional model.
        latent_dim: the size of a representation.
        latent_shapes: the shape of each latent site for one image, in the order of a representation.
        metadata: the metadata of a loaded model's file, otherwise empty.
    """

    def __init__(self, settings: Model, image_shape: tuple[int, int, int], classes: int = 0) -> None:
        super().__init__()
        self.settings = settings
        self.image_shape = image_shape
        self.classes = classes if settings.condition == "label" else 0
        self.metadata: dict[str, Any] = {}
        self.likelihood = LIKELIHOODS[settings.likelihood]()
        if self.classes:
            _, height, width = image_shape
            self.label_image = nn.Linear(self.classes, height * width)
        self.latent_shapes = self._make_parts()
        self.latent_dim = sum(torch.Size(shape).numel() for shape in self.latent_shapes.values())

    def _make_parts(self) -> dict[str, tuple[int, ...]]:
        """Make the encoder, the posterior, the prior and the decoder; return the shapes of the latent sites."""
        dim = self.settings.latent_dim
        self.encoder = self._make_encoder(self.settings)
        self.posterior = POSTERIORS[self.settings.posterior](self.settings, self.encoder.features, dim)
        self.prior = self._make_prior(dim)
        self.decoder = self._make_decoder(self.settings, dim + self.classes)
        return {"z": (dim,)}

    def _make_encoder(self, settings: Model) -> nn.Module:
        channels, height, width = self.image_shape
        return make_encoder(settings, (channels + (1 if self.classes else 0), height, width))

    def _make_prior(self, dim: int) -> nn.Module:
        return PRIORS[self.settings.prior](self.settings, dim, self.image_shape, self.posterior_given)

    def _make_decoder(self, settings: Model, inputs: int) -> nn.Module:
        channels, height, width = self.image_shape
        outputs = (channels * self.likelihood.parameters_per_channel, height, width)
        return make_decoder(settings, inputs, outputs)

    # --- The Pyro programs and their distributions

    def model(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The joint distribution p(x, z | y) with x observed."""
        self._register()
        with pyro.plate("images", len(images)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.image_given(z, labels), obs=images)

    def guide(self, images: Tensor, labels: Tensor | None = None) -> None:
        """The approximate posterior q(z | x, y)."""
        self._register()
        with pyro.plate("images", len(images)):
            pyro.sample("z", self.posterior_given(images, labels))

    def _register(self) -> None:
        # With Pyro's `module_local_params` the parameters stay in this module, whose owner optimizes them;
        # registering each in the parameter store would cost a tenth of a small training step.
        if not pyro.settings.get("module_local_params"):
            pyro.module("vae", self)

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The encoder's output for images and labels, shape (n, features)."""
        return self.encoder(self._shown(images, labels))

    def _shown(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """What an encoder sees of images and labels."""
        if self.classes:
            shown = self.label_image(self._one_hot(labels, images.shape[:-3])).unflatten(-1, self.image_shape[1:])
            images = torch.cat([images, shown.unsqueeze(-3)], dim=-3)
        # Centered, so that the first layer's inputs do not all have one sign.
        return torch.rsub(images, -1, alpha=-2) if self.settings.center_inputs else images  # 2 x - 1 in one pass

    def posterior_given(self, images: Tensor, labels: Tensor | None = None) -> dist.Distribution:
        """`encode` without checks."""
        return self.posterior(self.features(images, labels))

    def image_given(self, latents: Tensor, labels: Tensor | None = None) -> dist.Distribution:
        """p(x | z, y) for latents of shape (..., latent_dim): batch shape (...), event shape `image_shape`."""
        if self.classes:
            latents = torch.cat([latents, self._one_hot(labels, latents.shape[:-1])], dim=-1)
        return self.likelihood(self.decoder(latents).float())

    def representation_given(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """`represent` without checks."""
        return center(self.posterior_given(images, labels))

    def _one_hot(self, labels: Tensor, shape: torch.Size) -> Tensor:
        # Not `one_hot`, which scatters, and on a CPU reads its input, so that a step could not be recorded.
        vectors = labels.unsqueeze(-1) == torch.arange(self.classes, device=labels.device)
        return vectors.float().expand(*shape, -1)

    # --- For users

    def encode(self, images: Tensor, labels: Tensor | None = None) -> dist.Distribution:
        """The posterior q(z | x, y) of each image: batch shape (n,), event shape (latent_dim,)."""
        self._check(images, labels)
        return self.posterior_given(images, labels)

    def represent(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The posterior's mean (of a flow: its center), shape (n, latent_dim)."""
        self._check(images, labels)
        return self.representation_given(images, labels)

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Decode each image's representation; shape (n, channels, height, width)."""
        self._check(images, labels)
        return self.image_given(self.representation_given(images, labels), labels).mean

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The same as `reconstruct`, for code that calls a module."""
        return self.reconstruct(images, labels)

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean of p(x | z, y), shape (..., channels, height, width), for latents of shape (..., latent_dim)."""
        check_latents(latents, self.latent_dim, self._weight)
        check_labels(labels, self.classes, latents.shape[:-1], self._weight)
        return self.image_given(latents, labels).mean

    def sample(self, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Decode n draws from the prior; shape (n, channels, height, width). Equal seeds give equal draws."""
        check_labels(labels, self.classes, torch.Size([n]), self._weight)
        return self.draw_prior(n, seed, labels)[1].mean

    def draw_prior(self, n: int, seed: int, labels: Tensor | None = None) -> tuple[Tensor, dist.Distribution]:
        """Draw n latents from the prior, shape (n, latent_dim), and return p(x | z, y) for each as well."""
        check_count(n)
        check_labels(labels, self.classes, torch.Size([n]), self._weight, values=False)
        images = torch.empty(n, *self.image_shape, device=self._weight.device)
        with seeded(seed, images.device):
            trace = poutine.trace(poutine.uncondition(self.model)).get_trace(images, labels)
        return self._joined(trace), trace.nodes["x"]["fn"]

    def draw_posterior(self, images: Tensor, n: int, seed: int, labels: Tensor | None = None) -> Tensor:
        """Draw n latents from each image's posterior; shape (n, images, latent_dim)."""
        check_count(n)
        self._check(images, labels, values=False)
        with seeded(seed, images.device), pyro.plate("draws", n, dim=-2):
            return self._joined(poutine.trace(self.guide).get_trace(images, labels))

    def _joined(self, trace: poutine.Trace) -> Tensor:
        """The values of the latent sites, concatenated into one vector per image."""
        vectors = [trace.nodes[name]["value"].flatten(-len(shape)) for name, shape in self.latent_shapes.items()]
        return torch.cat(vectors, dim=-1)

    def _check(self, images: Tensor, labels: Tensor | None, values: bool = True) -> None:
        check_images(images, self.image_shape, self._weight, values)
        check_labels(labels, self.classes, images.shape[:1], self._weight, values)

    @property
    def _weight(self) -> Tensor:
        """One of the weights, whose device and type inputs must match."""
        return next(self.parameters())
