import numpy as np
import pytest
import torch

from tests.model.networks.conftest import IN_NUMPY, TOLERANCE, count, weights_of
from vae.model.networks.convolutional import ResidualBlock


@pytest.mark.parametrize(("network", "blocks"), [("conv", 0), ("resnet", 1), ("resnet", 3)])
def test_a_convolutional_network_halves_the_image_once_for_each_width(make_networks, network, blocks):
    encoder, decoder = make_networks(network, [7, 4], residual_blocks=max(blocks, 1))
    # 5 x 6 pixels become 3 x 3, then 2 x 2.
    assert encoder.features == 4 * 2 * 2
    inner = blocks * sum(2 * (9 * width + 1) * width for width in (7, 4))
    assert count(encoder) == (9 * 2 + 1) * 7 + (9 * 7 + 1) * 4 + inner
    # The decoder's convolutions leave the bias to the one of each pixel.
    assert count(decoder) == (3 + 1) * 7 * 2 * 2 + 9 * 7 * 4 + 9 * 4 * 2 + 2 * 5 * 6 + inner


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
