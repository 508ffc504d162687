"""Affine couplings with few operations: small kernels are most of a training step's time on a GPU."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import DenseNN
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LOG_SCALES = (-5.0, 3.0)


class AffineCouplings(dist.transforms.Transform):
    """Affine coupling layers (RealNVP, Dinh et al. 2017, equations 7 and 8), as Pyro's, each followed by a reversal.

    With x and y split into their first `half` dimensions and the others, and m and s given by a layer's network:

        y_1 = x_1        y_2 = m(x_1) + exp(s(x_1)) * x_2

    s is clamped to [-5, 3], with the gradient of the unclamped value. A network, with SiLU between its layers, maps
    vectors of shape (..., half) to m and s, one after the other. Without `reversing` the order of y stays.
    """

    domain = dist.constraints.real_vector
    codomain = dist.constraints.real_vector
    bijective = True

    def __init__(self, half: int, nets: Sequence[DenseNN], reversing: bool) -> None:
        super().__init__(cache_size=1)
        self.half, self.nets, self.reversing = half, nets, reversing
        self._log_slope: Tensor | None = None

    def _call(self, x: Tensor) -> Tensor:
        log_slopes = []
        # In bfloat16 a density would be off by tenths of a nat.
        with torch.autocast(x.device.type, enabled=False):
            for net in self.nets:
                first, second = x[..., : self.half], x[..., self.half :]
                mean, log_scale = net(first)
                log_scale = log_scale.clamp(*_LOG_SCALES).detach() + (log_scale - log_scale.detach())
                log_slopes.append(log_scale.sum(-1))
                x = torch.cat([first, torch.addcmul(mean, log_scale.exp(), second)], dim=-1)
                x = x.flip(-1) if self.reversing else x
        self._log_slope = sum(log_slopes)
        return x

    def _inverse(self, y: Tensor) -> Tensor:
        parameters = [
            getattr(linear, name)
            for linears in zip(*(net.layers for net in reversed(self.nets)), strict=True)
            for name in ("weight", "bias")
            for linear in linears
        ]
        with torch.autocast(y.device.type, enabled=False):
            x, self._log_slope = _Inverse.apply(y, self.half, len(self.nets), self.reversing, *parameters)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of all s, shape (...)."""
        known_x, known_y = self._cached_x_y
        if x is not known_x or y is not known_y:
            self(x)
        return self._log_slope


class _Inverse(torch.autograd.Function):
    """The inverse of `depth` layers in the order of their `parameters`, and the sum of all s.

    The parameters are the first weights of all layers' networks, their first biases, their second weights and so on.
    With reversals the first part of a vector is kept in reverse, and so are the first weights: then a reversal only
    exchanges the parts. Gradients by vectors are kept with the opposite sign: that by y_2 then is the one by m.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, half: int, depth: int, reversing: bool, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        groups: list[Any] = [parameters[i : i + depth] for i in range(0, len(parameters), depth)]
        weights, biases = groups[::2], groups[1::2]
        if reversing:
            weights[0] = torch.stack(weights[0]).flip(-1)
        ctx.weights, ctx.half, ctx.reversing, ctx.kept = weights, half, reversing, []
        first, second = _parts(y.reshape(-1, y.shape[-1]), half, reversing)
        log_scales = []
        for layer in range(depth):
            inputs, outputs = [first], []  # of the network's linear maps
            for weight, bias in zip(weights, biases, strict=True):
                inputs += [F.silu(outputs[-1])] if outputs else []
                outputs.append(torch.addmm(bias[layer], inputs[-1], weight[layer].t()))
            mean, log_scale = outputs[-1].chunk(2, dim=-1)
            log_scales.append(log_scale.clamp(*_LOG_SCALES))
            scale = log_scales[-1].exp()
            second = (second - mean).div_(scale)
            if any(ctx.needs_input_grad):
                ctx.kept.append((inputs, outputs, scale, second))
            if reversing:
                first, second = _exchanged(first, second)
        x = _whole(first, second, reversing)
        return x.view(y.shape), torch.stack(log_scales).sum((0, -1)).view(y.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_x: Tensor, of_sum: Tensor) -> tuple[Tensor | None, ...]:
        of_first, of_second = _parts(-of_x.reshape(-1, of_x.shape[-1]), ctx.half, ctx.reversing)
        of_outputs: list[list[Tensor]] = [[] for _ in ctx.weights]  # of each linear map, the last layer's first
        for layer, (_, outputs, scale, second) in reversed(list(enumerate(ctx.kept))):
            if ctx.reversing:
                of_first, of_second = _exchanged(of_first, of_second)
            gradient = torch.empty_like(outputs[-1])
            of_mean, of_log_scale = gradient.chunk(2, dim=-1)
            torch.addcmul(of_sum.reshape(-1, 1), of_second, second, out=of_log_scale)
            of_second = torch.div(of_second, scale, out=of_mean)
            of_outputs[-1].append(gradient)
            for place in reversed(range(len(outputs) - 1)):
                gradient = gradient @ ctx.weights[place + 1][layer]
                gradient = torch.ops.aten.silu_backward(gradient, outputs[place])
                of_outputs[place].append(gradient)
            of_first = torch.addmm(of_first, gradient, ctx.weights[0][layer], alpha=-1)
        of_y = _whole(of_first, of_second, ctx.reversing).neg_().view(of_x.shape)
        if not any(ctx.needs_input_grad[4:]):
            return of_y, *(None for _ in ctx.needs_input_grad[1:])
        of_parameters: list[Tensor] = []
        for place, found in enumerate(of_outputs):
            by_layer = torch.stack(found[::-1])
            # The products of all layers in one.
            of_weights = torch.bmm(by_layer.mT, torch.stack([inputs[place] for inputs, *_ in ctx.kept]))
            reverse = ctx.reversing and place == 0
            of_parameters += [*(of_weights.flip(-1) if reverse else of_weights), *by_layer.sum(1)]
        return of_y, None, None, None, *of_parameters


def _parts(rows: Tensor, half: int, reversing: bool) -> tuple[Tensor, Tensor]:
    """The first and the second part of vectors; if `reversing`, of the reversed vectors, the first one in reverse."""
    if reversing:
        return rows[:, -half:], rows[:, :-half].flip(-1)
    return rows[:, :half], rows[:, half:]


def _whole(first: Tensor, second: Tensor, reversing: bool) -> Tensor:
    """The vectors that `_parts` takes apart."""
    return torch.cat([second.flip(-1), first] if reversing else [first, second], dim=-1)


def _exchanged(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of the reversed vector; the middle of an odd number of dimensions stays in the second part."""
    middle = second.shape[-1] - first.shape[-1]
    first, second = second[:, middle:], torch.cat([second[:, :middle], first], dim=-1) if middle else first
    return first, second
