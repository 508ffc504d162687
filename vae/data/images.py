"""Images with their labels, and the conversion from 8-bit images to a model's input."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.ranks import Rows
from vae.settings import Binarization

_CHUNK = 10_000  # images binarized at a time, as their random numbers take four times their memory


@dataclass(frozen=True, eq=False)
class Split:
    """The images and labels of one split.

    Attributes:
        images: uint8 of shape (n, channels, height, width), from 0 to 255.
        labels: int64 of shape (n,).
        originals: the grayscale images that `images` were drawn from, if any, with the same shape and type.
    """

    images: Tensor
    labels: Tensor
    originals: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | Tensor | np.ndarray) -> "Split":
        """The images selected by a slice or an array of indices."""
        return self._each(lambda values: values[chosen])

    def first(self, n: int) -> "Split":
        """The first n images, or all if there are fewer."""
        return self[:n]

    def to(self, device: torch.device | str) -> "Split":
        """The same split on another device."""
        return self._each(lambda values: values.to(device))

    def batches(self, size: int) -> Iterator["Split"]:
        """The images in order, `size` at a time; the last batch may be smaller."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def _each(self, function: Callable[[Tensor], Tensor]) -> "Split":
        originals = None if self.originals is None else function(self.originals)
        return Split(function(self.images), function(self.labels), originals)


def binarize(images: Tensor, how: Binarization, generator: torch.Generator) -> Tensor:
    """Binarize grayscale images, uint8 (n, ...), to 0 and 255; `none` leaves them unchanged.

    `dynamic` and `static` draw each pixel as 1 with its intensity as the probability
    (Salakhutdinov & Murray 2008); `threshold` sets pixels above one half to 1.
    """
    if how == "none":
        return images.clone()  # tensors in one file must not share memory
    drawn = torch.empty_like(images)
    for part, out in zip(images.split(_CHUNK), drawn.split(_CHUNK), strict=True):
        level = 0.5 if how == "threshold" else torch.rand(part.shape, generator=generator)
        out.copy_(part / 255 > level).mul_(255)
    return drawn


def pixels(images: Tensor, binarize: bool, rows: Rows | None = None) -> Tensor:
    """Convert uint8 images to float32 from 0 to 1, or with `binarize` to 0 and 1 drawn by intensity.

    A drawn pixel is 1 with its intensity as the probability, to within 2^-16. If the images are only these `rows` of a
    mini-batch, they are drawn as they would be among all of it.
    """
    if not binarize:
        return images / 255
    # One random number serves four pixels: a CPU draws them one by one, which would dominate the cost.
    each = images[:1].numel()
    start, stop, whole = rows[:3] if rows else (0, len(images), len(images))
    quarter = torch.empty(math.ceil(whole * each / 4), dtype=torch.int64, device=images.device)
    noise = quarter.random_(-(2**63), None).view(torch.int16)[start * each : stop * each].view(images.shape)
    thresholds = torch.rsub(images, -(2.0**15), alpha=-(2**16) / 255)  # images * 2^16 / 255 - 2^15 in one pass
    return torch.lt(noise, thresholds, out=thresholds)
