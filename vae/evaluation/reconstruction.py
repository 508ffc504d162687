"""How well images are reconstructed: squared error, structural similarity, wrong pixels."""

from typing import NamedTuple

import torch
from torch import Tensor

from vae.data.images import Split, pixels
from vae.evaluation.uncertainty import flat, over_images
from vae.model import VAE

_BATCH = 1_000
_WINDOW, _WINDOW_SCALE = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


class Errors(NamedTuple):
    """How far each of n images is from the reconstruction at its posterior mean: float64 (n,) on the CPU.

    `mse` is the squared error per pixel, `ssim` the structural similarity, `error_rate` the share of pixels that are
    wrong after rounding the reconstruction, None if pixels are gray.
    """

    mse: Tensor
    ssim: Tensor
    error_rate: Tensor | None


@torch.no_grad()
def measure(model: VAE, split: Split, binary: bool) -> Errors:
    """Compare a split's images with their reconstructions, one batch at a time on the model's device."""
    parts = []
    for batch in split.batches(_BATCH):
        images, labels = pixels(batch.images, binarize=False), batch.labels
        reconstructed = model.image_given(model.representation_given(images, labels), labels).mean
        measured = [squared_error(images, reconstructed), ssim(images, reconstructed)]
        if binary:
            measured.append(error_rate(images, reconstructed))
        parts.append([values.cpu() for values in measured])
    mse, similarity, *wrong = (torch.cat(column) for column in zip(*parts, strict=True))
    return Errors(mse, similarity, wrong[0] if binary else None)


def squared_error(images: Tensor, others: Tensor) -> Tensor:
    """The mean over pixels of the squared difference, float64 (n,), of images (n, channels, height, width)."""
    return (images.double() - others.double()).square().mean(dim=(-3, -2, -1))


def error_rate(images: Tensor, reconstructed: Tensor) -> Tensor:
    """The share of black and white pixels that differ from the rounded reconstruction, float64 (n,)."""
    return ((reconstructed > 0.5) != (images > 0.5)).double().mean(dim=(-3, -2, -1))


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """The structural similarity of images (n, channels, height, width) from 0 to 1; float64 (n,), at most 1.

    Wang et al. 2004, equation 13, averaged over channels and all positions where the window fits: a Gaussian of 11 x 11
    pixels and standard deviation 1.5, cut to the largest odd size within smaller images; K1 = 0.01, K2 = 0.03.
    """
    height, width = images.shape[-2:]
    size = min(_WINDOW, height - 1 + height % 2, width - 1 + width % 2)
    rows, columns = (_windows(length, size).to(images.device) for length in (height, width))

    def blurred(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    # float64, as variances are differences of larger numbers.
    x, y = images.double(), others.double()
    mean_x, mean_y = blurred(x), blurred(y)
    variances = blurred(x * x) - mean_x**2 + blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return (alike / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))).mean(dim=(-3, -2, -1))


def _windows(length: int, size: int) -> Tensor:
    """The window at each position where it fits along one dimension, float64 (length - size + 1, length)."""
    weights = torch.exp(-((torch.arange(size, dtype=torch.float64) - size // 2) ** 2) / (2 * _WINDOW_SCALE**2))
    places = torch.zeros(length - size + 1, length, dtype=torch.float64)
    for start, row in enumerate(places):
        row[start : start + size] = weights / weights.sum()
    return places


def metrics(errors: Errors) -> dict[str, float]:
    """Means over images with standard errors; no error rate if pixels are gray."""
    measured = errors._asdict().items()
    return flat({f"reconstruction_{name}": over_images(values) for name, values in measured if values is not None})
