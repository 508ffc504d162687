"""Convolutional encoders and decoders, with residual blocks or without."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vae.model.kernels import Linear
from vae.model.networks.mlp import dropped


class ResidualBlock(nn.Module):
    """x + conv(activation(conv(activation(x)))), the identity at first; maps of shape (n, channels, height, width).

    Of the second activation's outputs a share `dropout` is dropped in training.
    """

    def __init__(self, channels: int, activation: type[nn.Module], dropout: float) -> None:
        super().__init__()
        last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = nn.Conv2d(channels, channels, 3, padding=1)
        self.layers = nn.Sequential(activation(), first, activation(), *dropped(dropout), last)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layers(maps)


def halvings(size: tuple[int, int], stages: int) -> list[tuple[int, int]]:
    """The maps' heights and widths, beginning with the image's; each stage halves them and rounds up."""
    sizes = [size]
    for _ in range(stages):
        height, width = sizes[-1]
        sizes.append((math.ceil(height / 2), math.ceil(width / 2)))
    return sizes


class ConvolutionalEncoder(nn.Module):
    """Images of shape (..., channels, height, width) to features of shape (..., features).

    Each width is the number of channels of one stage: a convolution with stride 2, then `blocks` residual blocks.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        widths: Sequence[int],
        activation: type[nn.Module],
        blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, *image_size = shape
        layers: list[nn.Module] = []
        sizes = [channels, *widths]
        for inputs, outputs in zip(sizes, widths, strict=False):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
            layers += [ResidualBlock(outputs, activation, dropout) for _ in range(blocks)]
            layers += [activation(), *dropped(dropout)]
        self.layers = nn.Sequential(*layers)
        self.features = sizes[-1] * math.prod(halvings(tuple(image_size), len(widths))[-1])

    def forward(self, images: Tensor) -> Tensor:
        leading = images.shape[:-3]
        return self.layers(images.reshape(-1, *images.shape[-3:])).reshape(*leading, self.features)


class ConvolutionalDecoder(nn.Module):
    """Vectors of shape (..., inputs) to numbers of shape (..., channels, height, width), the encoder in reverse.

    Each width is one stage at twice the resolution of the one before: `blocks` residual blocks, nearest-neighbor
    upsampling and a convolution.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        shape: tuple[int, int, int],
        activation: type[nn.Module],
        blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, *image_size = shape
        map_sizes = halvings(tuple(image_size), len(widths))[::-1]
        sizes = [*widths, channels]
        self.start = (sizes[0], *map_sizes[0])
        self.first = Linear(inputs, math.prod(self.start))
        layers: list[nn.Module] = []
        for i, map_size in enumerate(map_sizes[1:]):
            layers += [ResidualBlock(sizes[i], activation, dropout) for _ in range(blocks)]
            last = nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1, bias=False)
            layers += [activation(), *dropped(dropout), nn.Upsample(map_size), last]
        self.layers = nn.Sequential(*layers)
        # One per pixel, to represent the mean image.
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, latents: Tensor) -> Tensor:
        leading = latents.shape[:-1]
        maps = self.first(latents.reshape(-1, latents.shape[-1])).unflatten(-1, self.start)
        return (self.layers(maps) + self.bias).reshape(*leading, *self.bias.shape)
