from typing import get_args

import numpy as np
import pytest
import torch

from tests.model.networks.conftest import IN_NUMPY, WIDTHS
from vae.model.networks import ACTIVATIONS, DECODERS, ENCODERS, dense_layers
from vae.settings import Model

NETWORKS = ["mlp", "gated_mlp", "conv", "resnet"]
SHAPES = [(28, 28), (8, 8), (5, 6)]


def test_the_networks_and_activations_are_those_of_the_settings():
    assert list(ENCODERS) == list(DECODERS) == NETWORKS == list(get_args(Model.model_fields["network"].annotation))
    assert set(ACTIVATIONS) == set(IN_NUMPY) == set(get_args(Model.model_fields["activation"].annotation))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_take_any_depth_and_image_shape(make_networks, network, widths, shape):
    encoder, decoder = make_networks(network, widths, shape)
    features = encoder(torch.rand(4, 2, *shape))
    assert features.shape == (4, encoder.features)
    assert decoder(torch.randn(4, 3)).shape == (4, 2, *shape)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_decoder_adds_its_bias_to_each_pixel(make_networks, network):
    _, decoder = make_networks(network, [7])
    latents, bias = torch.randn(4, 3), torch.randn(2, 5, 6)
    with torch.no_grad():
        decoder.bias.zero_()
        without = decoder(latents)
        decoder.bias.copy_(bias)
    assert decoder.bias.shape == (2, 5, 6)
    torch.testing.assert_close(decoder(latents), without + bias)


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("network", NETWORKS)
def test_leading_dimensions_are_kept(make_networks, network, leading):
    encoder, decoder = make_networks(network, [7])
    images, latents = torch.rand(*leading, 2, 5, 6), torch.randn(*leading, 3)
    one_by_one = torch.cat([encoder(image[None]) for image in images.reshape(-1, 2, 5, 6)])
    # Matrix products of other sizes may add up in another order.
    torch.testing.assert_close(encoder(images), one_by_one.reshape(*leading, encoder.features))
    one_by_one = torch.cat([decoder(latent[None]) for latent in latents.reshape(-1, 3)])
    torch.testing.assert_close(decoder(latents), one_by_one.reshape(*leading, 2, 5, 6))


# --- Dropout


@pytest.mark.parametrize("network", NETWORKS)
def test_without_dropout_there_is_nothing_to_drop(make_networks, network):
    for module in make_networks(network, [7, 5], dropout=0):
        assert not any(isinstance(part, torch.nn.Dropout) for part in module.modules())


@pytest.mark.parametrize("network", NETWORKS)
def test_dropout_is_for_training_alone(make_networks, network):
    encoder, decoder = make_networks(network, [7, 5], dropout=0.5)
    for module, inputs in (encoder, torch.rand(4, 2, 5, 6)), (decoder, torch.randn(4, 3)):
        assert not torch.equal(module(inputs), module(inputs))
        module.eval()
        assert torch.equal(module(inputs), module(inputs))


# Every activation, of a stage and inside of a block, but a block's first, which no weight separates from its input.
@pytest.mark.parametrize(("network", "per_width"), [("mlp", 1), ("gated_mlp", 1), ("conv", 1), ("resnet", 2)])
def test_dropout_follows_every_hidden_layer(make_networks, network, per_width):
    for module in make_networks(network, [7, 5], dropout=0.3, residual_blocks=1):
        drops = [part for part in module.modules() if isinstance(part, torch.nn.Dropout)]
        assert [part.p for part in drops] == [0.3] * (2 * per_width)


def test_dropped_features_are_0_and_the_others_scaled_up(make_networks):
    encoder, _ = make_networks("mlp", [5000], dropout=0.3, activation="softplus")
    images = torch.rand(1, 2, 5, 6)
    dropped, whole = encoder(images), encoder.eval()(images)
    kept = dropped != 0
    # Softplus is never 0. Five standard errors of a share of 5000.
    assert abs(kept.double().mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / 5000)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.7)


@pytest.mark.parametrize("dropout", [0, 0.3])
def test_the_layers_between_two_levels_are_dropped_too(make_settings, dropout):
    layers = dense_layers(make_settings(model={"network": "gated_mlp", "dropout": dropout}).model, 3, [7, 5])
    assert sum(isinstance(part, torch.nn.Dropout) for part in layers.modules()) == (2 if dropout else 0)
