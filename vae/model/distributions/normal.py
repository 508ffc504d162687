"""Vectors of independent normals, the most frequent distribution in a training step."""

import pyro.distributions as dist
from torch import Tensor


class NormalVector(dist.Independent):
    """`dist.Normal(mean, scale).to_event(1)`, which a plate does not copy if its shape already fits.

    Mean and scale have shape (..., dim), the distribution batch shape (...) and event shape (dim,).
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__(dist.Normal(mean, scale), 1)

    def expand(self, batch_shape, _instance=None):
        """The same vectors in a larger batch."""
        if batch_shape == self.batch_shape:
            return self
        shape = (*batch_shape, *self.event_shape)
        return NormalVector(self.base_dist.loc.expand(shape), self.base_dist.scale.expand(shape))
