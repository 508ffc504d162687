"""What the ranks of a run exchange in each step: one sum over all of them, of everything that a step needs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vae import ranks


class Exchange:
    """Add up the ranks' parts of a loss, of the mean terms of the bound and of gradients, in one all-reduce.

    One transfer of all numbers, as the networks here are small: the time of a transfer is mostly its latency. The sum
    also carries whether a rank was asked to stop, so that all of them stop after the same step.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        self.flat = torch.zeros(4 + sum(sizes), device=parameters[0].device)
        self.loss, self.means, self.stopping, *parts = self.flat.split([1, 2, 1, *sizes])
        self.gradients = [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
        self.asked = torch.zeros(1, device=self.flat.device)
        self.told = torch.zeros(1, device=self.flat.device)

    def __call__(
        self, loss: Tensor, means: Tensor, gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """The sums over the ranks: shape (), (2,) and one gradient per parameter; overwritten by the next step's."""
        own = [loss.view(1), means, self.asked, *gradients]
        torch._foreach_copy_([self.loss, self.means, self.stopping, *self.gradients], own)
        ranks.add_up(self.flat)
        self.told.add_(self.stopping)
        return self.loss[0], self.means, self.gradients
