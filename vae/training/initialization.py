"""The initialization before training."""

import torch
from torch import Tensor

from vae.data.images import pixels
from vae.model import VAE
from vae.model.distributions.priors import VampPrior


@torch.no_grad()
def initialize(model: VAE, images: Tensor) -> None:
    """Initialize from training images, uint8 (n, ...): the decoder by their mean, a VampPrior by some of them."""
    intensities = pixels(images, binarize=False)
    model.decoder.bias.copy_(model.likelihood.initial_output(intensities))
    if isinstance(model.prior, VampPrior):
        components = len(model.prior.logits)
        model.prior.initialize(intensities[torch.randperm(len(images))[:components]])
