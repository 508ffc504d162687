"""The arithmetic floor: the least time that the linear layers' multiplications take on a device."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae.device import matrix_precision

_LEAST_SECONDS, _LEAST_REPETITIONS = 0.2, 3
_SQUARES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_LAYER = (1024, 784, 1024)  # rows, inputs, outputs


def forward_flops(network: nn.Module) -> int:
    """FLOPs of a network's linear layers for one row: a multiplication and an addition for each weight."""
    return sum(2 * layer.in_features * layer.out_features for layer in _linear_layers(network))


def training_flops(model: nn.Module) -> int:
    """FLOPs of the linear layers for one image of an epoch, forward and backward.

    A layer multiplies three times by as many numbers as it has weights: for its output, for its weights' gradient
    and for its input's gradient. The first layer's input is the image, whose gradient nobody needs.
    """
    first = _linear_layers(model)[0]
    return 3 * forward_flops(model) - forward_flops(first)


class Product(NamedTuple):
    """A product of matrices (rows, inputs) and (inputs, outputs), and the FLOP/s that one of them reached at best."""

    shape: tuple[int, int, int]
    precision: str
    rate: float

    @property
    def repetitions(self) -> int:
        """How many take about 0.2 s."""
        return max(round(_LEAST_SECONDS * self.rate / _flops(self.shape)), 1)

    @property
    def flops(self) -> float:
        """The FLOPs of all repetitions."""
        return self.repetitions * _flops(self.shape)

    def on(self, device: torch.device) -> Callable[[], None]:
        """What computes all repetitions on a device."""
        return partial(_multiply, *_matrices(self.shape, device, self.precision), self.precision, self.repetitions)


def fastest_product(device: torch.device, precision: str) -> Product:
    """The fastest of several matrix products on the device, square ones and a layer's."""
    shapes = [(size, size, size) for size in _SQUARES[device.type]] + [_LAYER]
    return max((Product(shape, precision, _rate(shape, device, precision)) for shape in shapes), key=lambda p: p.rate)


def wait(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(shape: tuple[int, int, int], device: torch.device, precision: str) -> float:
    multiply = partial(_multiply, *_matrices(shape, device, precision), precision, 1)
    multiply()  # the first one loads the kernel
    seconds: list[float] = []
    while sum(seconds) < _LEAST_SECONDS or len(seconds) < _LEAST_REPETITIONS:
        wait(device)
        start = time.perf_counter()
        multiply()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return _flops(shape) / min(seconds)


def _matrices(shape: tuple[int, int, int], device: torch.device, precision: str) -> tuple[Tensor, Tensor]:
    rows, inputs, outputs = shape
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return torch.rand(rows, inputs, device=device).to(dtype), torch.rand(inputs, outputs, device=device).to(dtype)


def _multiply(left: Tensor, right: Tensor, precision: str, times: int) -> None:
    with matrix_precision(precision):
        for _ in range(times):
            left @ right


def _flops(shape: tuple[int, int, int]) -> float:
    return 2.0 * math.prod(shape)


def _linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]
