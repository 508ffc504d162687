from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.model.networks.conftest import IN_NUMPY, TOLERANCE, WIDTHS, count, gated_in_numpy, weights_of
from vae.model.networks import dense_layers


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("network", "outputs"), [("mlp", 1), ("gated_mlp", 2)])
def test_a_fully_connected_network_has_one_weight_per_connection_and_one_bias_per_unit(
    make_networks, network, outputs, widths
):
    def hidden(sizes):
        return sum((a + 1) * outputs * b for a, b in pairwise(sizes))

    encoder, decoder = make_networks(network, widths)
    pixels, latent_dim = 2 * 5 * 6, 3
    assert encoder.features == [pixels, *widths][-1]
    assert count(encoder) == hidden([pixels, *widths])
    assert count(decoder) == hidden([latent_dim, *widths]) + ([latent_dim, *widths][-1] + 1) * pixels


@pytest.mark.parametrize(("network", "activation"), [*(("mlp", name) for name in IN_NUMPY), ("gated_mlp", "silu")])
def test_a_fully_connected_network_in_numpy(make_networks, network, activation):
    encoder, decoder = make_networks(network, [7, 5], activation=activation)
    apply = gated_in_numpy if network == "gated_mlp" else IN_NUMPY[activation]
    images, latents = torch.rand(4, 2, 5, 6), torch.randn(4, 3)
    features = images.double().numpy().reshape(4, 60)
    for weight, bias in weights_of(encoder):
        features = apply(features @ weight.T + bias)
    np.testing.assert_allclose(encoder(images).detach(), features, **TOLERANCE)
    *hidden, (weight, bias) = weights_of(decoder)
    outputs = latents.double().numpy()
    for inner_weight, inner_bias in hidden:
        outputs = apply(outputs @ inner_weight.T + inner_bias)
    expected = (outputs @ weight.T + bias).reshape(4, 2, 5, 6)
    np.testing.assert_allclose(decoder(latents).detach(), expected, **TOLERANCE)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("network", "activation"), [("mlp", "tanh"), ("resnet", "relu"), ("gated_mlp", "silu")])
def test_the_layers_between_two_levels_in_numpy(make_settings, network, activation, widths):
    keys = {"network": network, "activation": activation}
    layers, inputs = dense_layers(make_settings(model=keys).model, 3, widths), torch.randn(2, 4, 3)
    expected = inputs.double().numpy()
    for weight, bias in weights_of(layers):
        expected = expected @ weight.T + bias
        expected = gated_in_numpy(expected) if network == "gated_mlp" else IN_NUMPY[activation](expected)
    assert layers(inputs).shape == (2, 4, [3, *widths][-1])
    np.testing.assert_allclose(layers(inputs).detach(), expected, **TOLERANCE)
