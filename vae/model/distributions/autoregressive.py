"""Networks and layers of the flows that see a context, in float32 where training lowers the precision."""

import pyro.distributions as dist
import torch
from pyro.distributions.transforms.utils import clamp_preserve_gradients
from pyro.nn import ConditionalAutoRegressiveNN, ConditionalDenseNN
from torch import Tensor


class _InputsType:
    """A network whose answers have its input's type: under autocast they are bfloat16, too coarse for densities."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.to(x.dtype) for part in super().forward(x, context))


class ContextNN(_InputsType, ConditionalDenseNN):
    """Pyro's dense network with a context, its answers in the type of x."""


class ContextAutoRegressiveNN(_InputsType, ConditionalAutoRegressiveNN):
    """Pyro's autoregressive network with a context, its answers in the type of x."""


class AffineAutoregressive(dist.transforms.AffineAutoregressive):
    """Pyro's layer, whose inverse reads no value on the host: Pyro's waits for a GPU once per dimension."""

    def _inverse(self, y: Tensor) -> Tensor:
        x, place = torch.zeros_like(y), self.arn.permutation.argsort()
        for step in range(y.shape[-1]):
            mean, log_scale = self.arn(x)
            log_scale = clamp_preserve_gradients(log_scale, self.log_scale_min_clip, self.log_scale_max_clip)
            x = torch.where(place == step, (y - mean) * (-log_scale).exp(), x)
        self._cached_log_scale = log_scale  # complete, as none depends on the last dimension
        return x


class ConditionalAffineAutoregressive(dist.transforms.ConditionalAffineAutoregressive):
    """Pyro's layer, which becomes the one above where its context is known."""

    def condition(self, context: Tensor) -> AffineAutoregressive:
        """The layer for one context of shape (..., features)."""
        return AffineAutoregressive(super().condition(context).arn)
