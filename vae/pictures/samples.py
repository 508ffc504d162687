"""Samples from the model: alone, by class, and with their nearest training images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure

from vae.pictures.captions import number
from vae.pictures.layout import LARGE_IMAGE, MOST_COLUMNS, SMALL_IMAGE, TEXT_SIZE, gallery, text_width
from vae.pictures.picture import picture
from vae.pictures.results import Results
from vae.seeds import derive

if TYPE_CHECKING:
    from vae.model import VAE

_DRAWS_PER_CLASS = 8
_MOST_PAIR_ROWS = 5


@picture(
    group="samples",
    title="Samples",
    shows="Decoded draws from the prior in a grid.",
    look="Most should be recognizable at first sight, and no two the same.",
)
def samples(results: Results) -> Figure:
    """Draws from the prior; for a conditional model, for each class in turn."""
    count = results.settings.samples
    labels = torch.arange(count) % len(results.classes)
    decoded = results.model.sample(count, derive(results.settings.seed, "plot.samples"), labels)
    return samples_figure(decoded.numpy(), results.caption)


def samples_figure(probabilities: np.ndarray, caption: str) -> Figure:
    """Show the decoder's means at draws from the prior.

    Args:
        probabilities: images in [0, 1], of shape `(n, channels, height, width)`.
        caption: the title's second line.
    """
    count, *shape = probabilities.shape
    columns = min(count, MOST_COLUMNS)
    rows = -(-count // columns)
    images = np.ones((rows * columns, *shape))
    images[:count] = probabilities
    return gallery(
        images.reshape(rows, columns, *shape),
        title="Samples: decoded draws from the prior",
        caption=caption,
        image_size=SMALL_IMAGE,
    )


@picture(
    group="samples",
    title="Samples by class",
    shows="Decoded draws from the prior, one draw per row and one class per column.",
    look="Rows should share a style, columns a class.",
    applies=lambda results: results.model.classes > 0,
)
def samples_by_class(results: Results) -> Figure:
    """A conditional model's draws for each class."""
    seed = derive(results.settings.seed, "plot.samples_by_class")
    decoded = sample_each_class(results.model, _DRAWS_PER_CLASS, seed)
    return samples_by_class_figure(decoded, results.classes, results.caption)


def samples_by_class_figure(probabilities: np.ndarray, classes: Sequence[str], caption: str) -> Figure:
    """Show a conditional model's means at draws from the prior, the same draws for every class.

    Args:
        probabilities: images in [0, 1], of shape `(draws, classes, channels, height, width)`.
        classes: the classes' names.
        caption: the title's second line.
    """
    named = all(text_width(name, TEXT_SIZE) <= SMALL_IMAGE for name in classes)
    return gallery(
        probabilities,
        title="Samples by class: one draw from the prior in each row",
        caption=caption,
        image_size=SMALL_IMAGE if named else LARGE_IMAGE,
        column_labels=[(name, 1) for name in classes],
    )


@torch.inference_mode()
def sample_each_class(model: "VAE", draws: int, seed: int) -> np.ndarray:
    """Decode the same draws from a conditional model's prior for every class.

    Returns:
        The decoder's means, of shape `(draws, classes, channels, height, width)`.
    """
    labels = [torch.full((draws,), label) for label in range(model.classes)]
    return torch.stack([model.sample(draws, seed, label) for label in labels], dim=1).numpy()


@picture(
    group="samples",
    title="Samples and their nearest training images",
    shows="Samples from the model, each above its nearest training image.",
    look="A sample that copies its neighbor was memorized.",
)
def samples_neighbors(results: Results) -> Figure:
    """The samples kept by the sample stage."""
    drawn, nearest = results.samples["samples"] / 255, results.samples["neighbors"] / 255
    return samples_neighbors_figure(drawn, nearest, results.samples["distances"], results.caption)


def samples_neighbors_figure(drawn: np.ndarray, nearest: np.ndarray, distances: np.ndarray, caption: str) -> Figure:
    """Show samples over their nearest training images, the closest pairs first.

    Args:
        drawn: draws from the model in [0, 1], of shape `(n, channels, height, width)`.
        nearest: the training image nearest to each, of the same shape.
        distances: the Euclidean distances between them, of shape `(n,)`.
        caption: the title's second line.
    """
    columns = min(len(drawn), MOST_COLUMNS)
    rows = min(len(drawn) // columns, _MOST_PAIR_ROWS)
    order = np.argsort(distances, kind="stable")[: rows * columns]
    pairs = np.stack([drawn[order], nearest[order]]).reshape(2, rows, columns, *drawn.shape[1:])
    texts = [number(distance, 1) for distance in distances[order]]
    return gallery(
        pairs.swapaxes(0, 1).reshape(2 * rows, columns, *drawn.shape[1:]),
        title="Samples and their nearest training images (Euclidean distance)",
        caption=caption,
        image_size=SMALL_IMAGE,
        row_labels=["sample", "nearest image"] * rows,
        row_breaks=range(2, 2 * rows, 2),
        notes={2 * row + 1: texts[row * columns :][:columns] for row in range(rows)},
    )
