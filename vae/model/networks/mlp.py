"""Fully connected encoders and decoders, plain and gated."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from vae.model.kernels import Linear

Layer = Callable[[int, int], nn.Module]


def plain_layer(activation: type[nn.Module], dropout: float) -> Layer:
    """A layer activation(W x + b), as a function of the number of inputs and outputs."""
    return lambda inputs, outputs: nn.Sequential(Linear(inputs, outputs), activation(), *dropped(dropout))


def gated_layer(dropout: float) -> Layer:
    """A layer (W x + b) * sigmoid(V x + c) (Dauphin et al. 2016; Tomczak & Welling 2018)."""
    return lambda inputs, outputs: nn.Sequential(Linear(inputs, 2 * outputs), nn.GLU(), *dropped(dropout))


def dropped(share: float) -> list[nn.Module]:
    """What drops a share of a layer's outputs in training (Srivastava et al. 2014); nothing for a share of 0."""
    return [nn.Dropout(share)] if share else []


def hidden_layers(sizes: Sequence[int], layer: Layer) -> nn.Sequential:
    """Layers from each size to the next; sizes has at least one entry, the number of inputs."""
    return nn.Sequential(*(layer(inputs, outputs) for inputs, outputs in pairwise(sizes)))


class MLPEncoder(nn.Module):
    """Images of shape (..., channels, height, width) to features of shape (..., features)."""

    def __init__(self, shape: tuple[int, int, int], widths: Sequence[int], layer: Layer) -> None:
        super().__init__()
        sizes = [math.prod(shape), *widths]
        self.features = sizes[-1]
        self.layers = hidden_layers(sizes, layer)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(-3))


class MLPDecoder(nn.Module):
    """Vectors of shape (..., inputs) to numbers of shape (..., channels, height, width)."""

    def __init__(self, inputs: int, widths: Sequence[int], shape: tuple[int, int, int], layer: Layer) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        self.shape = shape
        self.layers = hidden_layers(sizes, layer)
        self.output = Linear(sizes[-1], math.prod(self.shape))

    @property
    def bias(self) -> Tensor:
        """What the last layer adds, a view of shape (channels, height, width)."""
        return self.output.bias.view(self.shape)

    def forward(self, latents: Tensor) -> Tensor:
        return self.output(self.layers(latents)).unflatten(-1, self.shape)
