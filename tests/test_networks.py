from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import erf, expit

from vae.networks import ACTIVATIONS, MLPDecoder, MLPEncoder

WIDTHS = [[], [7], [7, 5, 3]]
SHAPES = [(28, 28), (8, 8), (4, 6)]

IN_NUMPY = {
    "silu": lambda x: x * expit(x),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
}


def weights_of(layers):
    """Weight and bias, float64, of each linear layer in turn."""
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    return [(layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in linear]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_encoders_take_any_depth_and_image_shape(widths, shape):
    encoder = MLPEncoder(shape, widths, "relu")
    features = encoder(torch.rand(5, *shape))
    assert encoder.features == (widths[-1] if widths else shape[0] * shape[1])
    assert features.shape == (5, encoder.features)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_decoders_take_any_depth_and_image_shape(widths, shape):
    assert MLPDecoder(2, widths, shape, "relu")(torch.randn(5, 2)).shape == (5, *shape)


@pytest.mark.parametrize("widths", WIDTHS)
def test_parameters_are_one_weight_for_each_connection_and_one_bias_for_each_unit(widths):
    pixels, latent_dim = 8 * 8, 3

    def expected(sizes):
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))

    assert count(MLPEncoder((8, 8), widths, "tanh")) == expected([pixels, *widths])
    assert count(MLPDecoder(latent_dim, widths, (8, 8), "tanh")) == expected([latent_dim, *widths, pixels])


def test_every_activation_is_recomputed_here():
    assert set(IN_NUMPY) == set(ACTIVATIONS)


# Both below: float32 sums of at most 64 terms of order 1 agree with float64 to some 1e-6.
@pytest.mark.parametrize("activation", IN_NUMPY)
def test_an_encoder_is_centred_pixels_through_its_layers(activation):
    images = torch.rand(5, 4, 6)
    encoder = MLPEncoder((4, 6), [7, 5], activation)
    expected = images.double().numpy().reshape(5, 24) * 2 - 1
    for weight, bias in weights_of(encoder.layers):
        expected = IN_NUMPY[activation](expected @ weight.T + bias)
    np.testing.assert_allclose(encoder(images).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("activation", IN_NUMPY)
def test_a_decoder_ends_in_a_linear_layer_with_a_pixel_in_each_place(activation):
    latents = torch.randn(5, 3)
    decoder = MLPDecoder(3, [7, 5], (4, 6), activation)
    *hidden, (weight, bias) = weights_of([*decoder.layers, decoder.output])
    expected = latents.double().numpy()
    for inner_weight, inner_bias in hidden:
        expected = IN_NUMPY[activation](expected @ inner_weight.T + inner_bias)
    expected = (expected @ weight.T + bias).reshape(5, 4, 6)
    np.testing.assert_allclose(decoder(latents).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 3)])
def test_leading_dimensions_are_kept(leading):
    encoder, decoder = MLPEncoder((4, 6), [7], "tanh"), MLPDecoder(3, [7], (4, 6), "tanh")
    images, latents = torch.rand(*leading, 4, 6), torch.randn(*leading, 3)
    one_by_one = torch.stack([encoder(image) for image in images.reshape(-1, 4, 6)])
    # Matrix products of other sizes may add up in another order.
    torch.testing.assert_close(encoder(images), one_by_one.reshape(*leading, 7))
    one_by_one = torch.stack([decoder(latent) for latent in latents.reshape(-1, 3)])
    torch.testing.assert_close(decoder(latents), one_by_one.reshape(*leading, 4, 6))
