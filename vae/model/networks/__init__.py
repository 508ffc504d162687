"""Encoders and decoders: plain torch modules, nothing probabilistic.

An encoder maps images of shape (..., channels, height, width) to features of shape (..., `features`). A decoder
maps vectors of shape (..., inputs) to numbers of shape (..., channels, height, width), and has a `bias` of shape
(channels, height, width) that it adds to them. Leading dimensions are arbitrary.
"""

from collections.abc import Callable, Sequence

from torch import nn

from vae.model.kernels import Softplus
from vae.model.networks.convolutional import ConvolutionalDecoder, ConvolutionalEncoder
from vae.model.networks.mlp import Layer, MLPDecoder, MLPEncoder, gated_layer, hidden_layers, plain_layer
from vae.settings import Model

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": Softplus,
    "gelu": nn.GELU,
}

Shape = tuple[int, int, int]

# A new network is one pair of classes and one line in each of these.
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda settings, shape: MLPEncoder(shape, settings.encoder_widths, _plain(settings)),
    "gated_mlp": lambda settings, shape: MLPEncoder(shape, settings.encoder_widths, gated_layer(settings.dropout)),
    "conv": lambda settings, shape: ConvolutionalEncoder(
        shape, settings.encoder_widths, ACTIVATIONS[settings.activation], 0, settings.dropout
    ),
    "resnet": lambda settings, shape: ConvolutionalEncoder(
        shape, settings.encoder_widths, ACTIVATIONS[settings.activation], settings.residual_blocks, settings.dropout
    ),
}
DECODERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": lambda settings, inputs, shape: MLPDecoder(inputs, settings.decoder_widths, shape, _plain(settings)),
    "gated_mlp": lambda settings, inputs, shape: MLPDecoder(
        inputs, settings.decoder_widths, shape, gated_layer(settings.dropout)
    ),
    "conv": lambda settings, inputs, shape: ConvolutionalDecoder(
        inputs, settings.decoder_widths, shape, ACTIVATIONS[settings.activation], 0, settings.dropout
    ),
    "resnet": lambda settings, inputs, shape: ConvolutionalDecoder(
        inputs,
        settings.decoder_widths,
        shape,
        ACTIVATIONS[settings.activation],
        settings.residual_blocks,
        settings.dropout,
    ),
}


def make_encoder(settings: Model, shape: Shape) -> nn.Module:
    """The encoder that the settings name, for images of `shape`: channels, height, width."""
    return ENCODERS[settings.network](settings, shape)


def make_decoder(settings: Model, inputs: int, shape: Shape) -> nn.Module:
    """The decoder that the settings name, from vectors of size `inputs` to numbers of `shape`, as above."""
    return DECODERS[settings.network](settings, inputs, shape)


def dense_layers(settings: Model, inputs: int, widths: Sequence[int]) -> nn.Module:
    """Fully connected hidden layers, such as between two levels of latents: (..., inputs) to (..., last width)."""
    layer = gated_layer(settings.dropout) if settings.network == "gated_mlp" else _plain(settings)
    return hidden_layers([inputs, *widths], layer)


def _plain(settings: Model) -> Layer:
    return plain_layer(ACTIVATIONS[settings.activation], settings.dropout)
