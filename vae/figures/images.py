"""Galleries of test images, of what the model makes of them, and of its samples."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from vae.figures.captions import number
from vae.figures.layout import (
    BREAK,
    GUTTER,
    LARGE_IMAGE,
    MOST_COLUMNS,
    SMALL_IMAGE,
    TEXT_SIZE,
    UNIT,
    gallery,
)

_DEVIATIONS = "viridis"
_LARGEST_DEVIATION = 0.5  # which no distribution on [0, 1] exceeds
_MOST_PAIR_ROWS = 5
_BAR, _BAR_ROOM = 10, 50  # units


def reconstructions(
    originals: np.ndarray, inputs: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], caption: str
) -> Figure:
    """Show images of each class over what the model saw of them (where that differs) over its reconstructions.

    Args:
        originals: grey-scale images in [0, 1], of shape `(classes, examples, height, width)`.
        inputs: what the model saw, of the same shape.
        probabilities: the decoder's means, of the same shape.
        classes: the classes' names.
        caption: the title's second line.
    """
    kinds = _originals(originals, inputs) | {"reconstruction": probabilities}
    count, examples, *shape = originals.shape
    across = max(n for n in range(1, examples + 1) if examples % n == 0 and (n == 1 or n * count <= MOST_COLUMNS))
    blocks = examples // across
    images = np.stack(list(kinds.values())).reshape(len(kinds), count, blocks, across, *shape)
    return gallery(
        images.transpose(2, 0, 1, 3, 4, 5).reshape(blocks * len(kinds), count * across, *shape),
        title="Test images and their reconstructions",
        caption=caption,
        image_size=SMALL_IMAGE,
        row_labels=list(kinds) * blocks,
        column_labels=[(name, across) for name in classes],
        row_breaks=range(len(kinds), blocks * len(kinds), len(kinds)),
    )


def reconstructions_extremes(
    originals: np.ndarray,
    inputs: np.ndarray,
    probabilities: np.ndarray,
    nll: np.ndarray,
    classes: Sequence[str],
    caption: str,
) -> Figure:
    """Show the images of each class that are reconstructed best over those that are reconstructed worst.

    Args:
        originals: grey-scale images in [0, 1], of shape `(2, classes, examples, height, width)`, the best ones first.
        inputs: what the model saw, of the same shape.
        probabilities: the decoder's means, of the same shape.
        nll: the reconstructions' negative log-likelihood in nats, of shape `(2, classes, examples)`.
        classes: the classes' names.
        caption: the title's second line.
    """
    kinds = _originals(originals, inputs) | {"reconstruction": probabilities}
    _, count, examples, *shape = originals.shape
    images = np.stack(list(kinds.values()), axis=1).reshape(2 * len(kinds), count * examples, *shape)
    last_rows = len(kinds) - 1, 2 * len(kinds) - 1
    return gallery(
        images,
        title="Test images reconstructed best and worst (reconstruction NLL in nats)",
        caption=caption,
        image_size=SMALL_IMAGE,
        row_labels=[f"{which}: {kind}" for which in ("best", "worst") for kind in kinds],
        column_labels=[(name, examples) for name in classes],
        row_breaks=[len(kinds)],
        notes=dict(zip(last_rows, ([_short(value) for value in part.flat] for part in nll), strict=True)),
    )


def reconstructions_by_epoch(
    originals: np.ndarray,
    inputs: np.ndarray,
    probabilities: np.ndarray,
    epochs: Sequence[int],
    classes: Sequence[str],
    caption: str,
) -> Figure:
    """Show how the reconstruction of one image of each class changed while the model was trained.

    Args:
        originals: grey-scale images in [0, 1], of shape `(classes, height, width)`.
        inputs: what the model saw, of the same shape.
        probabilities: the decoder's means after each epoch, of shape `(epochs, classes, height, width)`.
        epochs: the epochs' numbers.
        classes: the classes' names.
        caption: the title's second line.
    """
    kinds = _originals(originals, inputs)
    return gallery(
        np.concatenate([np.stack(list(kinds.values())), probabilities]),
        title="Reconstructions of test images by epoch",
        caption=caption,
        image_size=LARGE_IMAGE,
        row_labels=[*kinds, *(f"epoch {epoch}" for epoch in epochs)],
        column_labels=[(name, 1) for name in classes],
        row_breaks=[len(kinds)],
    )


def uncertainty(
    inputs: np.ndarray,
    means: np.ndarray,
    latent_deviations: np.ndarray,
    noise_deviations: np.ndarray,
    classes: Sequence[str],
    caption: str,
) -> Figure:
    """Show how sure the model is of each pixel, split into what the latent vector leaves open and the pixel's noise.

    Args:
        inputs: what the model saw of one image of each class, in [0, 1], of shape `(classes, height, width)`.
        means: E[x], the decoder's means averaged over draws from the posterior, of the same shape.
        latent_deviations: the square root of Var_z E[x | z], of the same shape.
        noise_deviations: the square root of E_z Var[x | z], of the same shape.
        classes: the classes' names.
        caption: the title's second line.
    """
    colours = matplotlib.colormaps[_DEVIATIONS]
    deviations = np.stack([latent_deviations, noise_deviations])
    grey = np.stack([inputs, means])[..., None].repeat(3, axis=-1)
    figure = gallery(
        np.concatenate([grey, colours(deviations / _LARGEST_DEVIATION)[..., :3]]),
        title="Predictive uncertainty: each pixel's standard deviation from two sources",
        caption=caption,
        image_size=LARGE_IMAGE,
        row_labels=["model input", "predictive mean", "latent vector", "pixel noise"],
        column_labels=[(name, 1) for name in classes],
        row_breaks=[2],
        right=_BAR_ROOM,
    )
    images = figure.axes[0].get_position()
    width, _ = figure.get_size_inches() / UNIT
    canvas = figure.axes[0].images[0].get_array()
    # The lower half without the break: the rows that it explains.
    height = images.height * (len(canvas) - GUTTER - BREAK) / 2 / len(canvas)
    axes = figure.add_axes((images.x1 + BREAK / width, images.y0, _BAR / width, height))
    bar = figure.colorbar(ScalarMappable(cmap=colours), cax=axes, ticks=[0, 0.5, 1])
    low, _, high = bar.ax.set_yticklabels(["0", "0.25", "0.5"], fontsize=TEXT_SIZE)
    low.set_va("bottom")
    high.set_va("top")
    bar.outline.set_visible(False)
    return figure


def samples(probabilities: np.ndarray, caption: str) -> Figure:
    """Show the decoder's means at draws from the prior.

    Args:
        probabilities: images in [0, 1], of shape `(n, height, width)`.
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


def samples_by_class(probabilities: np.ndarray, classes: Sequence[str], caption: str) -> Figure:
    """Show a conditional model's means at draws from the prior, the same draws for every class.

    Args:
        probabilities: images in [0, 1], of shape `(draws, classes, height, width)`.
        classes: the classes' names.
        caption: the title's second line.
    """
    return gallery(
        probabilities,
        title="Samples by class: one draw from the prior in each row",
        caption=caption,
        image_size=SMALL_IMAGE,
        column_labels=[(name, 1) for name in classes],
    )


def samples_neighbours(samples: np.ndarray, neighbours: np.ndarray, distances: np.ndarray, caption: str) -> Figure:
    """Show samples over their nearest training images, the closest pairs first.

    Args:
        samples: draws from the model in [0, 1], of shape `(n, height, width)`.
        neighbours: the training image nearest to each, of the same shape.
        distances: the Euclidean distances between them, of shape `(n,)`.
        caption: the title's second line.
    """
    columns = min(len(samples), MOST_COLUMNS)
    rows = min(len(samples) // columns, _MOST_PAIR_ROWS)
    order = np.argsort(distances, kind="stable")[: rows * columns]
    pairs = np.stack([samples[order], neighbours[order]]).reshape(2, rows, columns, *samples.shape[1:])
    texts = [number(distance, 1) for distance in distances[order]]
    return gallery(
        pairs.swapaxes(0, 1).reshape(2 * rows, columns, *samples.shape[1:]),
        title="Samples and their nearest training images (Euclidean distance)",
        caption=caption,
        image_size=SMALL_IMAGE,
        row_labels=["sample", "nearest image"] * rows,
        row_breaks=range(2, 2 * rows, 2),
        notes={2 * row + 1: texts[row * columns :][:columns] for row in range(rows)},
    )


def _originals(originals: np.ndarray, inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {"original": originals} | ({} if np.array_equal(originals, inputs) else {"model input": inputs})


def _short(value: float) -> str:
    return number(value, 1 if abs(value) < 100 else 0)
