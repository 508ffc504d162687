"""Reconstructions of test images: typical ones, the best and the worst, during training, and their errors by class."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae.pictures.captions import number
from vae.pictures.layout import (
    BLUE,
    CAPTION_SIZE,
    HEADING,
    LARGE_IMAGE,
    MOST_COLUMNS,
    ORANGE,
    SMALL_IMAGE,
    TEXT_SIZE,
    chart,
    gallery,
    plain,
)
from vae.pictures.picture import picture
from vae.pictures.results import Results, extremes_of_each_class

if TYPE_CHECKING:
    from vae.model import VAE

_EXAMPLES, _EXTREMES = 6, 2  # test images per class
_ERRORS = {
    "nll": ("Negative log-likelihood", "nats, lower is better"),
    "mse": ("Squared error", "per pixel, lower is better"),
    "ssim": ("Structural similarity", "SSIM, higher is better"),
}


@picture(
    group="reconstruction",
    title="Reconstructions",
    shows="Test images of each class, each above the model's input and its reconstruction.",
    look="A reconstruction keeps the shape and smooths the noise. Watch for strokes or classes that change.",
)
def reconstructions(results: Results) -> Figure:
    """The first test images of each class."""
    chosen = results.first_of_each_class(_EXAMPLES)
    originals, inputs = results.originals(chosen), results.inputs(chosen)
    decoded = reconstruct(results.model, inputs, results.labels[chosen])
    return reconstructions_figure(originals, inputs, decoded, results.present, results.caption)


def reconstructions_figure(
    originals: np.ndarray, inputs: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], caption: str
) -> Figure:
    """Show images of each class, below them the model's input (if different), and below that its reconstructions.

    Args:
        originals: images as published, in [0, 1], of shape `(classes, examples, channels, height, width)`.
        inputs: the model's inputs, of the same shape.
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
        np.moveaxis(images, 2, 0).reshape(blocks * len(kinds), count * across, *shape),
        title="Test images and their reconstructions",
        caption=caption,
        image_size=SMALL_IMAGE,
        row_labels=list(kinds) * blocks,
        column_labels=[(name, across) for name in classes],
        row_breaks=range(len(kinds), blocks * len(kinds), len(kinds)),
    )


@picture(
    group="reconstruction",
    title="Best and worst reconstructions",
    shows="For each class the test images with the lowest and with the highest reconstruction loss.",
    look="The worst ones should be rare shapes or poor scans; if a whole class is among them, the model is at fault.",
)
def reconstructions_extremes(results: Results) -> Figure:
    """The test images of each class with the lowest and the highest reconstruction NLL."""
    nll = results.latents["reconstruction_nll"]
    chosen = extremes_of_each_class(nll, results.labels, _EXTREMES)
    originals, inputs = results.originals(chosen), results.inputs(chosen)
    decoded = reconstruct(results.model, inputs, results.labels[chosen])
    return reconstructions_extremes_figure(originals, inputs, decoded, nll[chosen], results.present, results.caption)


def reconstructions_extremes_figure(
    originals: np.ndarray,
    inputs: np.ndarray,
    probabilities: np.ndarray,
    nll: np.ndarray,
    classes: Sequence[str],
    caption: str,
) -> Figure:
    """Show the images of each class that are reconstructed best over those that are reconstructed worst.

    Args:
        originals: images as published, in [0, 1], of shape `(2, classes, examples, channels, height, width)`, the
            best ones first.
        inputs: the model's inputs, of the same shape.
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


@picture(
    group="reconstruction",
    title="Reconstructions by epoch",
    shows="One test image of each class, and its reconstruction after selected epochs, one row per epoch.",
    look="Early rows show an average image; details of the image itself appear with more epochs.",
)
def reconstructions_by_epoch(results: Results) -> Figure:
    """The snapshots taken during training."""
    chosen, epochs, decoded = (results.snapshots[name] for name in ("indices", "epochs", "probabilities"))
    originals, inputs = results.originals(chosen), results.inputs(chosen)
    return reconstructions_by_epoch_figure(originals, inputs, decoded, epochs, results.present, results.caption)


def reconstructions_by_epoch_figure(
    originals: np.ndarray,
    inputs: np.ndarray,
    probabilities: np.ndarray,
    epochs: Sequence[int],
    classes: Sequence[str],
    caption: str,
) -> Figure:
    """Show how the reconstruction of one image per class changed during training.

    Args:
        originals: images as published, in [0, 1], of shape `(classes, channels, height, width)`.
        inputs: the model's inputs, of the same shape.
        probabilities: the decoder's means after each epoch, of shape `(epochs, classes, channels, height, width)`.
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


@picture(
    group="reconstruction",
    title="Error by class",
    shows="Charts of the test images' mean errors for each class, with their standard errors.",
    look="Classes with long strokes cost more nats. A class far above the others was learned poorly.",
)
def error_by_class(results: Results) -> Figure:
    """All test images."""
    return error_by_class_figure(results.latents, results.labels, results.classes, results.caption)


def error_by_class_figure(
    errors: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str], caption: str
) -> Figure:
    """Show each class's mean errors with their standard errors, and the means over all images.

    Args:
        errors: `nll` in nats, `mse` per pixel and `ssim`, each of shape `(n,)`; others are left out.
        labels: the images' classes, int64 of shape `(n,)`.
        classes: the classes' names.
        caption: the title's second line.
    """
    title = f"Errors on {len(labels):,} test images by class (bars: one standard error)"
    figure = chart(640, HEADING + 70 + 18 * len(classes), title, caption)
    panels = figure.subplots(1, len(_ERRORS), sharey=True)
    for axes, (key, (name, unit)) in zip(panels, _ERRORS.items(), strict=True):
        by_class = pd.Series(errors[key], dtype=float).groupby(labels)
        means = by_class.mean()
        # A class with a single image has no standard error.
        axes.errorbar(
            means,
            means.index,
            xerr=by_class.sem().fillna(0),
            fmt="o",
            markersize=4,
            capsize=3,
            color=BLUE,
        )
        axes.axvline(errors[key].mean(), color=ORANGE, linestyle="--", label="all images")
        axes.set_title(name, loc="left", fontsize=CAPTION_SIZE)
        axes.set_xlabel(unit, fontsize=TEXT_SIZE)
        axes.tick_params(labelsize=TEXT_SIZE)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.tick_params(axis="y", length=0)
        plain(axes, grid="both")
    panels[0].set_yticks(range(len(classes)), classes)
    panels[0].set_ylim(len(classes) - 0.5, -0.5)
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="upper right", frameon=False, fontsize=TEXT_SIZE, borderaxespad=0.3)
    return figure


@torch.inference_mode()
def reconstruct(model: "VAE", images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Decode the posterior means of images (..., channels, height, width) with labels (...); of the images' shape."""
    flat = torch.from_numpy(images.reshape(-1, *images.shape[-3:])).float()
    return model.reconstruct(flat, torch.from_numpy(labels.ravel())).numpy().reshape(images.shape)


def _originals(originals: np.ndarray, inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {"original": originals} | ({} if np.array_equal(originals, inputs) else {"model input": inputs})


def _short(value: float) -> str:
    return number(value, 1 if abs(value) < 100 else 0)
