"""The initialization before training."""

import math

import torch
from torch import Tensor, nn

from vae.data.images import pixels
from vae.model import VAE
from vae.model.distributions.posteriors import DiagonalNormal
from vae.model.distributions.priors import VampPrior
from vae.settings import Train

_ENOUGH = 100_000_000  # pixels for a mean image, 400 MB as float32


@torch.no_grad()
def initialize(model: VAE, images: Tensor, settings: Train) -> None:
    """Draw the weights as the settings say, then start from training images, uint8 (n, ...), if they say so.

    The decoder then starts at their mean (if there are more than 100 million pixels, that of every k-th image) and a
    VampPrior at some of them, otherwise at torch's random bias and at N(0.05, 0.01^2) as in the code of Tomczak &
    Welling (2018).
    """
    if settings.initialization != "torch":
        _draw_weights(model, settings.initialization)
    if settings.initialize_from_data:
        spread = images[:: math.ceil(images.numel() / _ENOUGH)]
        model.decoder.bias.copy_(model.likelihood.initial_output(pixels(spread, binarize=False)))
    if isinstance(model.prior, VampPrior):
        if settings.initialize_from_data:
            components = len(model.prior.logits)
            some = images[torch.randperm(len(images))[:components]]
            model.prior.initialize(pixels(some, binarize=False))
        else:
            model.prior.logits.normal_(0.05, 0.01).clamp_(0.001, 0.999).logit_()


def _draw_weights(model: VAE, initialization: str) -> None:
    """Glorot & Bengio (2010, equation 16) with biases of 0, or He et al. (2015, equation 10) with torch's biases.

    What starts at 0 stays there: the last layers of flows and of residual blocks.
    """
    # A head is two layers side by side, of the mean and of the log scale.
    heads = {part.head for part in model.modules() if isinstance(part, DiagonalNormal)}
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.any():
            if initialization == "he":
                nn.init.kaiming_normal_(layer.weight)
                continue
            for weight in layer.weight.chunk(2 if layer in heads else 1):
                nn.init.xavier_uniform_(weight)
            if layer.bias is not None:
                layer.bias.zero_()
