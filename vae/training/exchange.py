"""What the ranks of a run exchange in each step: sums over all of them, of everything that a step needs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vae import ranks

PART = 750_000  # numbers (3 MB) that are worth a transfer of their own: over gigabit Ethernet it takes 25 ms


class Exchange:
    """Add up the ranks' parts of a loss, of the mean terms of the bound and of gradients.

    Small networks take one all-reduce of all numbers, as the time of a transfer is then mostly its latency. On a CPU
    the gradients of larger ones are cut into parts, from the last parameters on, whose gradients come first: a part
    that is complete travels while the backward pass computes the next. The last transfer also carries whether a rank
    was asked to stop, so that all of them stop after the same step.

    Attributes:
        parts: the numbers of the parameters of each part, in the order in which their gradients come, about.
        early: the numbers of those parameters whose gradients are to be handed to `take` as soon as they are there.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        self.flat = torch.zeros(4 + sum(sizes), device=parameters[0].device)
        self.loss, self.means, self.stopping, *views = self.flat.split([1, 2, 1, *sizes])
        self.gradients = [view.view_as(parameter) for view, parameter in zip(views, parameters, strict=True)]
        # Never tried with NCCL, whose transfers are captured with the step.
        self.parts = cut(sizes) if self.flat.device.type == "cpu" else [range(len(sizes))]
        self.part_of = {number: part for part, numbers in enumerate(self.parts[:-1]) for number in numbers}
        self.early = list(self.part_of)
        lengths = [sum(sizes[number] for number in numbers) for numbers in self.parts]
        lengths[-1] += 4
        self.flats = self.flat.split(lengths[::-1])[::-1]
        self.taken = [0] * len(self.parts)
        self.under_way: dict[int, Callable[[], None]] = {}  # by part, what waits for its sum
        self.asked = torch.zeros(1, device=self.flat.device)
        self.told = torch.zeros(1, device=self.flat.device)

    def take(self, number: int, gradient: Tensor) -> None:
        """Take a parameter's gradient during the backward pass; the last one of a part starts its transfer."""
        self.gradients[number].copy_(gradient)
        part = self.part_of[number]
        self.taken[part] += 1
        if self.taken[part] == len(self.parts[part]):
            self.under_way[part] = ranks.start_adding_up(self.flats[part])

    def __call__(
        self, loss: Tensor, means: Tensor, gradients: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """The sums over the ranks: shape (), (2,) and one gradient per parameter; overwritten by the next step's."""
        left = [part for part in range(len(self.parts)) if part not in self.under_way]
        numbers = [number for part in left for number in self.parts[part]]
        sums = [self.loss, self.means, self.stopping, *(self.gradients[number] for number in numbers)]
        own = [loss.view(1), means, self.asked, *(gradients[number] for number in numbers)]
        torch._foreach_copy_(sums, own)
        for part in left:
            ranks.add_up(self.flats[part])
        for wait in self.under_way.values():
            wait()
        self.under_way.clear()
        self.taken = [0] * len(self.parts)
        self.told.add_(self.stopping)
        return self.loss[0], self.means, self.gradients


def cut(sizes: Sequence[int]) -> list[range]:
    """Cut parameters of these sizes, from the last on, into parts of at least `PART` numbers.

    There is a single part if all of them are fewer than four times as many.
    """
    parts, stop = [], len(sizes)
    if sum(sizes) < 4 * PART:
        return [range(stop)]
    for start in reversed(range(1, len(sizes))):
        if sum(sizes[start:stop]) >= PART and sum(sizes[:start]) >= PART:
            parts.append(range(start, stop))
            stop = start
    return [*parts, range(stop)]
