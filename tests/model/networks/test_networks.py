from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import erf, expit

from vae.model.networks import ACTIVATIONS, DECODERS, ENCODERS, dense_layers, make_decoder, make_encoder
from vae.model.networks.convolutional import ResidualBlock
from vae.settings import Model

NETWORKS = ["mlp", "gated_mlp", "conv", "resnet"]
WIDTHS = [[], [7], [7, 5, 3]]
SHAPES = [(28, 28), (8, 8), (5, 6)]

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


@pytest.mark.parametrize(("network", "blocks"), [("conv", 0), ("resnet", 1), ("resnet", 3)])
def test_a_convolutional_network_halves_the_image_once_for_each_width(make_networks, network, blocks):
    encoder, decoder = make_networks(network, [7, 4], residual_blocks=max(blocks, 1))
    # 5 x 6 pixels become 3 x 3, then 2 x 2.
    assert encoder.features == 4 * 2 * 2
    inner = blocks * sum(2 * (9 * width + 1) * width for width in (7, 4))
    assert count(encoder) == (9 * 2 + 1) * 7 + (9 * 7 + 1) * 4 + inner
    # The decoder's convolutions leave the bias to the one of each pixel.
    assert count(decoder) == (3 + 1) * 7 * 2 * 2 + 9 * 7 * 4 + 9 * 4 * 2 + 2 * 5 * 6 + inner


# Those that recompute a network: float32 sums of at most some hundred terms of order 1 agree with float64 to 1e-5.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


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


def convolved(maps, weight, bias, stride=1):
    """Convolve maps (n, channels, height, width) with 3 x 3 kernels and a border of one zero."""
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = maps.shape[-2:]
    result = 0 if bias is None else bias[:, None, None]
    for i in range(3):
        for j in range(3):
            shifted = padded[..., i : i + height : stride, j : j + width : stride]
            result = result + np.einsum("ncij,oc->noij", shifted, weight[..., i, j])
    return result


def with_blocks(maps, weights, blocks, activation):
    for _ in range(blocks):
        first = convolved(activation(maps), *next(weights))
        maps = maps + convolved(activation(first), *next(weights))
    return maps


@pytest.mark.parametrize("activation", IN_NUMPY)
@pytest.mark.parametrize(("network", "blocks"), [("conv", 0), ("resnet", 2)])
def test_a_convolutional_encoder_in_numpy(make_networks, network, blocks, activation):
    encoder, _ = make_networks(network, [3, 4], activation=activation, residual_blocks=2)
    images, weights = torch.rand(4, 2, 5, 6), iter(weights_of(encoder))
    maps = images.double().numpy()
    for _ in range(2):
        maps = with_blocks(convolved(maps, *next(weights), stride=2), weights, blocks, IN_NUMPY[activation])
        maps = IN_NUMPY[activation](maps)
    np.testing.assert_allclose(encoder(images).detach(), maps.reshape(4, -1), **TOLERANCE)


@pytest.mark.parametrize("activation", IN_NUMPY)
@pytest.mark.parametrize(("network", "blocks"), [("conv", 0), ("resnet", 2)])
def test_a_convolutional_decoder_in_numpy(make_networks, network, blocks, activation):
    _, decoder = make_networks(network, [4, 3], activation=activation, residual_blocks=2)
    latents, weights = torch.randn(4, 3), iter(weights_of(decoder))
    weight, bias = next(weights)
    maps = (latents.double().numpy() @ weight.T + bias).reshape(4, 4, 2, 2)
    # Rows and columns of the map before, one for each of the new ones: the nearest, as in i * old // new.
    for rows, columns in ([0, 0, 1], [0, 0, 1]), ([0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]):
        maps = IN_NUMPY[activation](with_blocks(maps, weights, blocks, IN_NUMPY[activation]))
        maps = convolved(maps[:, :, rows][..., columns], *next(weights))
    maps = maps + decoder.bias.detach().double().numpy()
    np.testing.assert_allclose(decoder(latents).detach(), maps, **TOLERANCE)


def test_a_residual_block_begins_as_the_identity_and_learns():
    block, maps = ResidualBlock(4, torch.nn.SiLU, dropout=0), torch.randn(2, 4, 5, 6)
    assert torch.equal(block(maps), maps)
    block(maps).square().sum().backward()
    assert (block.layers[-1].weight.grad != 0).all()


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
