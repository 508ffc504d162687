"""A learned linear map between the layers of a flow, which lets every dimension meet every other."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearMixing(dist.TransformModule):
    """y = P L U x + b on vectors of shape (dim,), at first the reversal P of the vector (Kingma & Dhariwal 2018).

    L is lower triangular with ones on its diagonal, U upper triangular with a positive one: equation 10 there, with the
    signs of s fixed at 1. The diagonal of U and the shift b make up the scale and the shift of an actnorm layer, which
    therefore is not needed beside it. Calling it takes a product, inverting it two triangular solves.
    """

    domain = dist.constraints.real_vector
    codomain = dist.constraints.real_vector
    bijective = True

    def __init__(self, dim: int) -> None:
        super().__init__(cache_size=1)
        # Below the diagonal L's entries, above it U's, on it the logarithms of U's.
        self.factors = nn.Parameter(torch.zeros(dim, dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.register_buffer("identity", torch.eye(dim), persistent=False)

    def _triangles(self) -> tuple[Tensor, Tensor]:
        upper = torch.addcmul(self.factors.triu(1), self.factors.exp(), self.identity)
        return self.factors.tril(-1) + self.identity, upper

    def _call(self, x: Tensor) -> Tensor:
        # In bfloat16 a density would be off by tenths of a nat.
        with torch.autocast(x.device.type, enabled=False):
            lower, upper = self._triangles()
            return F.linear(x, (lower @ upper).flip(0), self.shift)

    def _inverse(self, y: Tensor) -> Tensor:
        lower, upper = self._triangles()
        rows = (y - self.shift).flip(-1).reshape(-1, len(self.shift))
        rows = torch.linalg.solve_triangular(lower.T, rows, upper=True, left=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper.T, rows, upper=False, left=False).reshape(y.shape)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the logarithms on U's diagonal, shape (...)."""
        return self.factors.diagonal().sum().expand(x.shape[:-1])
