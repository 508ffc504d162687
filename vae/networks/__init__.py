"""Encoders and decoders: plain torch modules, nothing probabilistic.

An encoder maps images of shape (..., channels, height, width) to features of shape (..., `features`). A decoder
maps vectors of shape (..., inputs) to `channels` numbers a pixel, shape (..., channels, height, width), and has
the `bias` that it adds to them, of shape (channels, height, width). Leading dimensions are free.
"""

from collections.abc import Callable

from torch import nn

from vae.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from vae.networks.mlp import MLPDecoder, MLPEncoder, gated_layer, hidden_layers, plain_layer
from vae.settings import Model

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}

# A new network is one pair of classes and one line in each of these.
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda settings, channels, shape: MLPEncoder(
        channels, shape, settings.encoder_widths, plain_layer(ACTIVATIONS[settings.activation])
    ),
    "gated_mlp": lambda settings, channels, shape: MLPEncoder(channels, shape, settings.encoder_widths, gated_layer),
    "conv": lambda settings, channels, shape: ConvolutionalEncoder(
        channels, shape, settings.encoder_widths, ACTIVATIONS[settings.activation], blocks=0
    ),
    "resnet": lambda settings, channels, shape: ConvolutionalEncoder(
        channels, shape, settings.encoder_widths, ACTIVATIONS[settings.activation], settings.residual_blocks
    ),
}
DECODERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda settings, inputs, channels, shape: MLPDecoder(
        inputs, settings.decoder_widths, channels, shape, plain_layer(ACTIVATIONS[settings.activation])
    ),
    "gated_mlp": lambda settings, inputs, channels, shape: MLPDecoder(
        inputs, settings.decoder_widths, channels, shape, gated_layer
    ),
    "conv": lambda settings, inputs, channels, shape: ConvolutionalDecoder(
        inputs, settings.decoder_widths, channels, shape, ACTIVATIONS[settings.activation], blocks=0
    ),
    "resnet": lambda settings, inputs, channels, shape: ConvolutionalDecoder(
        inputs, settings.decoder_widths, channels, shape, ACTIVATIONS[settings.activation], settings.residual_blocks
    ),
}


def make_encoder(settings: Model, channels: int, image_shape: tuple[int, int]) -> nn.Module:
    """The encoder that the settings name, for images of so many channels."""
    return ENCODERS[settings.network](settings, channels, image_shape)


def make_decoder(settings: Model, inputs: int, channels: int, image_shape: tuple[int, int]) -> nn.Module:
    """The decoder that the settings name, from vectors of size `inputs` to so many numbers a pixel."""
    return DECODERS[settings.network](settings, inputs, channels, image_shape)


def inner_layers(settings: Model, inputs: int) -> nn.Module:
    """The fully connected layers between two levels of latent vectors: (..., inputs) to (..., last inner width)."""
    layer = gated_layer if settings.network == "gated_mlp" else plain_layer(ACTIVATIONS[settings.activation])
    return hidden_layers([inputs, *settings.inner_widths], layer)
