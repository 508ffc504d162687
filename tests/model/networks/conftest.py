"""What the tests of the networks share: encoders and decoders in no special state, and NumPy's view of them."""

import numpy as np
import pytest
import torch
from scipy.special import erf, expit

from vae.model.networks import make_decoder, make_encoder

WIDTHS = [[], [7], [7, 5, 3]]
# Those that recompute a network: float32 sums of at most some hundred terms of order 1 agree with float64 to 1e-5.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}

IN_NUMPY = {
    "silu": lambda x: x * expit(x),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
}


def gated_in_numpy(x):
    values, gates = np.split(x, 2, axis=-1)
    return values * expit(gates)


@pytest.fixture
def make_networks(make_settings):
    """Give a function: encoder and decoder of a kind, for images of two channels and latents of size 3."""

    def make(network, widths, shape=(5, 6), **keys):
        widths = {"encoder_widths": widths, "decoder_widths": widths}
        settings = make_settings(model={"network": network, **widths, **keys}).model
        encoder, decoder = make_encoder(settings, (2, *shape)), make_decoder(settings, 3, (2, *shape))
        with torch.no_grad():
            for parameter in [*encoder.parameters(), *decoder.parameters()]:
                # So that no residual block is the identity and no bias 0.
                parameter += 0.1 * torch.randn_like(parameter)
        return encoder, decoder

    return make


def weights_of(module):
    """Weight and bias (or None), float64, of each linear and convolutional layer in turn."""
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    return [[p if p is None else p.detach().double().numpy() for p in (layer.weight, layer.bias)] for layer in layers]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())
