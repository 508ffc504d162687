"""Encoders and decoders: plain torch modules, nothing probabilistic."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}


class MLPEncoder(nn.Module):
    """Maps images to features by fully connected layers.

    Images have shape (..., height, width), features (..., features).
    """

    def __init__(self, image_shape: tuple[int, int], widths: Sequence[int], activation: str) -> None:
        super().__init__()
        pixels = image_shape[0] * image_shape[1]
        self.features = widths[-1] if widths else pixels
        self.layers = _hidden_layers([pixels, *widths], activation)

    def forward(self, images: Tensor) -> Tensor:
        # Centred, so that the first layer does not begin with one sign for all of its inputs.
        return self.layers(images.flatten(-2) * 2 - 1)


class MLPDecoder(nn.Module):
    """Maps latent vectors to one number a pixel by fully connected layers.

    Latent vectors have shape (..., latent_dim), the result (..., height, width).
    """

    def __init__(self, latent_dim: int, widths: Sequence[int], image_shape: tuple[int, int], activation: str) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.layers = _hidden_layers([latent_dim, *widths], activation)
        self.output = nn.Linear([latent_dim, *widths][-1], image_shape[0] * image_shape[1])

    def forward(self, latents: Tensor) -> Tensor:
        return self.output(self.layers(latents)).unflatten(-1, self.image_shape)


def _hidden_layers(sizes: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)
