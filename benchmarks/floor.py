"""The arithmetic floor: the least time that the linear layers' multiplications take on a device."""

import time

import torch
from torch import nn

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


def matrix_rate(device: torch.device, precision: str) -> float:
    """The most FLOP/s that the device reaches now in one of several matrix products, square ones and a layer's."""
    shapes = [(size, size, size) for size in _SQUARES[device.type]] + [_LAYER]
    with matrix_precision(precision):
        return max(_rate(shape, device, precision) for shape in shapes)


def wait(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(shape: tuple[int, int, int], device: torch.device, precision: str) -> float:
    rows, inputs, outputs = shape
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (
        torch.rand(rows, inputs, device=device).to(dtype),
        torch.rand(inputs, outputs, device=device).to(dtype),
    )
    left @ right  # the first one loads the kernel
    seconds: list[float] = []
    while sum(seconds) < _LEAST_SECONDS or len(seconds) < _LEAST_REPETITIONS:
        wait(device)
        start = time.perf_counter()
        left @ right
        wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * rows * inputs * outputs / min(seconds)


def _linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]
