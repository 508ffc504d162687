"""What a training step computes most, faster on a CPU than with torch's own functions.

- Softplus and cross-entropy need log(1 + exp(x)) = max(x, 0) - log(sigmoid(|x|)). The right side takes a fifth of the
  time of `log1p`. Its logarithm is of a number from 1/2 to 1, so rounding moves it by up to 1e-7, whatever its size.
- Under autocast only large matrix products run in bfloat16, and everything else in float32: conversions cost more
  than a small product gains.

That is enough while training. Without gradients, as in evaluation, and on GPUs torch's own functions are used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LARGE = 20_000_000  # multiplications from which a product gains more than conversions cost


class Softplus(nn.Module):
    """The activation log(1 + exp(x)) of each element."""

    def forward(self, x: Tensor) -> Tensor:
        return _Softplus.apply(x) if torch.is_grad_enabled() else F.softplus(x)


class Linear(nn.Linear):
    """x W^T + b for vectors of shape (..., inputs)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Vectors x W^T + b of shape (..., outputs), for x (..., inputs), W (outputs, inputs) and b (outputs,)."""
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    if not torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        x = x.to(weight.dtype)  # from a convolution it comes as bfloat16
        large = x[..., 0].numel() * weight.numel() >= _LARGE
        return _Bfloat16Linear.apply(x, weight, bias) if large else F.linear(x, weight, bias)


def cross_entropy(logits: Tensor, images: Tensor) -> Tensor:
    """The cross-entropy between pixels in [0, 1] and probabilities sigmoid(logits), summed over each image's pixels.

    Both have shape (..., channels, height, width), the result (...). Images get no gradient.
    """
    logits, images = torch.broadcast_tensors(logits, images)
    if torch.is_grad_enabled():
        return _CrossEntropy.apply(logits, images)
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").sum((-3, -2, -1))


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _log_of_1_plus_exp(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if x.device.type != "cpu":
            return torch.ops.aten.softplus_backward(gradient, x, 1, 20)
        return gradient * x.sigmoid()


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, images: Tensor) -> Tensor:
        ctx.save_for_backward(logits, images)
        return _log_of_1_plus_exp(logits).addcmul_(logits, images, value=-1).sum((-3, -2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, images = ctx.saved_tensors
        gradient = gradient[..., None, None, None]
        if logits.device.type != "cpu":
            of_logits = torch.ops.aten.softplus_backward(gradient.expand_as(logits), logits, 1, 20)
            return of_logits.addcmul_(gradient, images, value=-1), None
        return logits.sigmoid().sub_(images).mul_(gradient), None


def _log_of_1_plus_exp(x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return F.softplus(x).to(x.dtype)  # autocast on CUDA makes float32 of bfloat16
    return x.clamp(min=0).sub_(x.abs().sigmoid_().log_())


class _Bfloat16Linear(torch.autograd.Function):
    """Products of bfloat16 numbers, summed in float32; inputs, outputs and gradients are float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, weight = x.flatten(0, -2).bfloat16(), weight.bfloat16()
        ctx.save_for_backward(rows, weight)
        return (rows @ weight.t()).float().add_(bias).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        of_outputs = gradient.flatten(0, -2)
        rounded = of_outputs.bfloat16()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            (rounded @ weight).float().view(*gradient.shape[:-1], -1) if needs_x else None,
            (rounded.t() @ rows).float() if needs_weight else None,
            of_outputs.sum(0) if needs_bias else None,
        )
