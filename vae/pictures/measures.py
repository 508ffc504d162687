"""Measures of the latent space: each dimension's KL, and the classes that its neighborhoods confuse."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from vae.pictures.layout import (
    BLUE,
    HEADING,
    MARGIN,
    NOTE_SIZE,
    TEXT_SIZE,
    TITLE_SIZE,
    chart,
    plain,
    text_width,
)
from vae.pictures.picture import picture
from vae.pictures.results import Results

_MOST_NAMED_BARS = 50
_CELL = 44  # units


@picture(
    group="latent-space",
    title="KL by dimension",
    shows="Bar chart of each latent dimension's KL divergence, in descending order.",
    look="Dimensions at 0 carry nothing: the model pruned them. Under a learned prior bars do not sum to the rate.",
)
def kl_per_dimension(results: Results) -> Figure:
    """All latent dimensions."""
    return kl_per_dimension_figure(results.latents["kl_per_dimension"], results.active_units, results.caption)


def kl_per_dimension_figure(kl: np.ndarray, active: int, caption: str) -> Figure:
    """Show how many nats each latent dimension carries, the largest first.

    Args:
        kl: each dimension's KL, averaged over images, in nats, of shape `(latent_dim,)`.
        active: the number of dimensions that depend on the image.
        caption: the title's second line.
    """
    order = np.argsort(-kl, kind="stable")
    # Not their sum, which is the ELBO's KL only under a standard normal prior.
    title = f"KL of each latent dimension taken alone: {active} of {len(kl)} units active"
    figure = chart(600, 270, title, caption)
    axes = figure.add_subplot()
    axes.bar(np.arange(len(kl)), kl[order], width=0.8, color=BLUE)
    named = len(kl) <= _MOST_NAMED_BARS
    axes.set_xticks(np.arange(len(kl)) if named else [], order if named else None)
    axes.set_xlim(-0.6, max(len(kl), 8) - 0.4)
    axes.set_xlabel("latent dimension of z, the largest KL first", fontsize=TEXT_SIZE)
    axes.set_ylabel("nats per image", fontsize=TEXT_SIZE)
    axes.tick_params(axis="y", labelsize=TEXT_SIZE)
    axes.tick_params(axis="x", labelsize=NOTE_SIZE, length=0)
    plain(axes, grid="y")
    return figure


@picture(
    group="latent-space",
    title="Confusion",
    shows="Matrix of actual classes against those of the nearest neighbors in the latent space.",
    look="Classes that look alike, such as 4 and 9 among digits, show up off the diagonal.",
)
def confusion(results: Results) -> Figure:
    """The nearest-neighbor classifier on all test images."""
    return confusion_figure(results.labels, results.latents["predicted"], results.classes, results.caption)


def confusion_figure(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], caption: str) -> Figure:
    """Show how many images of each class a classifier assigns to each class, shaded by their share of the class.

    Args:
        labels: the images' classes, int64 of shape `(n,)`.
        predicted: the classifier's answers, of the same shape.
        classes: the classes' names.
        caption: the title's second line.
    """
    count = len(classes)
    table = np.zeros((count, count), dtype=int)
    np.add.at(table, (labels, predicted), 1)
    shares = table / table.sum(axis=1, keepdims=True).clip(min=1)

    title = f"Nearest neighbors in the latent space: {np.mean(labels == predicted):.1%} correct"
    longest = max(text_width(name, TEXT_SIZE) for name in classes)
    upright = longest > _CELL
    width = max(count * _CELL + longest + 40, text_width(title, TITLE_SIZE, "bold") + 2 * MARGIN)
    figure = chart(width, HEADING + count * _CELL + (longest if upright else 15) + 50, title, caption)
    axes = figure.add_subplot()
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # so that a few mistakes among many images can be seen
    axes.imshow(shares, cmap="Blues", norm=norm)
    for row, column in zip(*np.nonzero(table), strict=True):
        shade = "white" if norm(shares[row, column]) > 0.6 else "black"
        axes.text(column, row, f"{table[row, column]}", ha="center", va="center", fontsize=TEXT_SIZE, color=shade)
    axes.set_xticks(range(count), classes, rotation=90 if upright else 0)
    axes.set_yticks(range(count), classes)
    axes.set_xlabel("class of the nearest training images", fontsize=TEXT_SIZE)
    axes.set_ylabel("class", fontsize=TEXT_SIZE)
    axes.tick_params(length=0, labelsize=TEXT_SIZE)
    axes.spines[:].set_visible(False)
    return figure
