"""Pictures of a trained VAE: arrays and frames in, matplotlib figures out; opens no files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

DATASETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "digits": "Digits (8 x 8)"}
LIKELIHOODS = {
    "relaxed_bernoulli": "relaxed Bernoulli, no likelihood",
    "continuous_bernoulli": "continuous Bernoulli",
    "discretized_logistic": "discretized logistic",
}
METHODS = {"tsne": "t-SNE", "pca": "PCA"}
TERMS = {
    "elbo": "ELBO (higher is better)",
    "reconstruction_nll": "Distortion: reconstruction NLL",
    "kl": r"Rate: KL$(q(z\,|\,x)\,\|\,p(z))$",
}
CURVES = {"train": {"color": "#0173b2"}, "validation": {"color": "#d55e00", "linestyle": "--"}}

TITLE_SIZE, CAPTION_SIZE, TEXT_SIZE = 13, 11, 10  # points

# Pictures are laid out in units that are whole pixels at 75, 150 and 300 dots per inch: images stay sharp.
UNIT = 1 / 75  # inch
HEADING = 40  # the title's two lines
COLUMN_LABELS = 15
ROW_LABEL_PAD = 6
MARGIN = 4
GUTTER = 2  # between images
BREAK = 6  # more, between groups of images
SMALL_IMAGE, LARGE_IMAGE = 28, 56
MOST_COLUMNS = 20


def describe(metadata: Mapping[str, Any]) -> str:
    """Say in one line what a model was trained on and for how long, from the metadata in its file."""
    epochs, best = metadata["epochs"], metadata["best_epoch"]
    pixels = f"{metadata['binarization']} binarization"
    if metadata["binarization"] == "none":
        pixels = f"grey-scale ({LIKELIHOODS[metadata['model']['likelihood']]})"
    duration = f"{epochs} epochs" if epochs > 1 else "1 epoch"
    kept = "" if best in (None, epochs) else f" (best: {best})"
    return f"{DATASETS[metadata['dataset']]}, {pixels}, {duration}{kept}"


def first_of_each_class(labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Find the first images of each class: as many of each as the rarest class has, at most `count`.

    Args:
        labels: class of each image, int64 of shape `(n,)`.
        classes: number of classes, each of which occurs in `labels`.
        count: images of a class, at most.

    Returns:
        Indices into `labels`, of shape `(classes, examples)`.
    """
    examples = min(count, np.bincount(labels, minlength=classes).min())
    return np.stack([np.flatnonzero(labels == label)[:examples] for label in range(classes)])


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
    return _gallery(
        images.transpose(2, 0, 1, 3, 4, 5).reshape(blocks * len(kinds), count * across, *shape),
        title="Test images and their reconstructions",
        caption=caption,
        image_size=SMALL_IMAGE,
        row_labels=list(kinds) * blocks,
        column_labels=classes,
        row_breaks=range(len(kinds), blocks * len(kinds), len(kinds)),
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
    return _gallery(
        np.concatenate([np.stack(list(kinds.values())), probabilities]),
        title="Reconstructions of test images by epoch",
        caption=caption,
        image_size=LARGE_IMAGE,
        row_labels=[*kinds, *(f"epoch {epoch}" for epoch in epochs)],
        column_labels=classes,
        row_breaks=[len(kinds)],
    )


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
    return _gallery(
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
    return _gallery(
        probabilities,
        title="Samples by class: one draw from the prior in each row",
        caption=caption,
        image_size=SMALL_IMAGE,
        column_labels=classes,
    )


def embedding(points: pd.DataFrame, classes: Sequence[str], method: str, caption: str) -> Figure:
    """Show the posterior means in two dimensions, coloured by class, with each class's name at its median.

    Args:
        points: a row an image; columns `x`, `y` and `label`, the class's name.
        classes: the classes' names in the legend's order.
        method: how the two dimensions came about, `tsne` or `pca`.
        caption: the title's second line.
    """
    name = METHODS[method]
    figure = _chart(600, 480, f"{name} of the posterior means of {len(points):,} test images", caption)
    axes = figure.add_subplot(aspect="equal", adjustable="datalim")
    palette = seaborn.color_palette("colorblind", len(classes))
    seaborn.scatterplot(
        points, x="x", y="y", hue="label", hue_order=classes, palette=palette, ax=axes, s=9, alpha=0.7, linewidth=0
    )
    outline = [withStroke(linewidth=3, foreground="white")]
    names = [
        axes.annotate(
            label,
            median,
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=TITLE_SIZE,
            fontweight="bold",
            path_effects=outline,
        )
        for label, median in points.groupby("label")[["x", "y"]].median().iterrows()
    ]
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"{name} 1", fontsize=TEXT_SIZE)
    axes.set_ylabel(f"{name} 2", fontsize=TEXT_SIZE)
    axes.spines[:].set_color("0.8")
    seaborn.move_legend(
        axes,
        "center left",
        bbox_to_anchor=(1, 0.5),
        title="class",
        alignment="left",
        frameon=False,
        fontsize=TEXT_SIZE,
        title_fontsize=TEXT_SIZE,
        handletextpad=0.2,
        markerscale=2.5,
    )
    figure.draw_without_rendering()
    _keep_apart(names)
    return figure


def elbo(history: pd.DataFrame, caption: str) -> Figure:
    """Show the ELBO and its two terms, rate and distortion, over the epochs.

    Args:
        history: a row an epoch; columns `epoch` and, in nats per image, `train_elbo`, `train_reconstruction_nll`
            and `train_kl`; with a validation split also the three that start with `validation_`.
        caption: the title's second line.
    """
    figure = _chart(600, 315, "Evidence lower bound by epoch", caption)
    panels = figure.subplot_mosaic([["elbo", "reconstruction_nll"], ["elbo", "kl"]], width_ratios=[1.2, 1])
    for term, axes in panels.items():
        _draw_curves(axes, history, term)
    panels["reconstruction_nll"].set_xlabel(None)
    # Beside the title, as no corner of a panel stays free of curves in every training.
    lines = panels["elbo"].get_legend_handles_labels()
    figure.legend(*lines, loc="upper right", ncols=len(CURVES), frameon=False, fontsize=TEXT_SIZE, borderaxespad=0)
    return figure


def _keep_apart(names: list[Annotation]) -> None:
    """Raise names that were drawn until none covers another."""
    placed: list[Bbox] = []
    for name in sorted(names, key=lambda name: name.xy[1]):
        drawn = box = name.get_window_extent()
        for other in sorted(placed, key=lambda box: box.y0):
            if box.overlaps(other):
                box = box.translated(0, other.y1 - box.y0)
        name.set_position((0, (box.y0 - drawn.y0) * 72 / name.figure.dpi))
        placed.append(box)


def _draw_curves(axes: Axes, history: pd.DataFrame, term: str) -> None:
    epochs = history["epoch"]
    curves = {split: history[f"{split}_{term}"] for split in CURVES if f"{split}_{term}" in history}
    lowest = min(curves, key=lambda split: curves[split].iloc[-1])
    for split, values in curves.items():
        color, final = CURVES[split]["color"], (epochs.iloc[-1], values.iloc[-1])
        axes.plot(epochs, values, label=split, **CURVES[split])
        axes.plot(*final, marker="o", markersize=4, color=color)
        # The lower number hangs and the upper one stands, so that two which are close do not overlap.
        side = "center" if len(curves) == 1 else "top" if split == lowest else "bottom"
        axes.annotate(
            f"{final[1]:.2f}".replace("-", "\N{MINUS SIGN}"),
            final,
            xytext=(6, 0),
            textcoords="offset points",
            va=side,
            color=color,
            fontsize=TEXT_SIZE,
        )
    axes.set_ylim(_robust_limits(list(curves.values())))
    axes.set_title(TERMS[term], loc="left", fontsize=CAPTION_SIZE)
    axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    axes.set_ylabel("nats per image", fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _robust_limits(curves: Sequence[pd.Series]) -> tuple[float, float]:
    """Find y-limits that hold the middle four fifths of all values and every final one."""
    values = [*np.quantile(np.concatenate(curves), [0.1, 0.9]), *(curve.iloc[-1] for curve in curves)]
    margin = max(0.1 * (max(values) - min(values)), 0.5)
    return min(values) - margin, max(values) + margin


def _originals(originals: np.ndarray, inputs: np.ndarray) -> dict[str, np.ndarray]:
    return {"original": originals} | ({} if np.array_equal(originals, inputs) else {"model input": inputs})


def _gallery(
    images: np.ndarray,
    title: str,
    caption: str,
    image_size: int,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    row_breaks: Sequence[int] = (),
) -> Figure:
    """Show images of shape `(rows, columns, height, width)` in a grid, each about `image_size` units high.

    A label stands beside each row, and above each column or, where there are fewer labels, each group of columns.
    """
    columns = images.shape[1]
    group = columns // max(1, len(column_labels))
    scale = max(1, image_size // images.shape[2])
    enlarged = images.repeat(scale, axis=2).repeat(scale, axis=3)
    canvas, rows_at, columns_at = _tile(enlarged, row_breaks, range(group, columns, group) if group > 1 else ())

    left = MARGIN + max((_text_width(label, TEXT_SIZE) + ROW_LABEL_PAD for label in row_labels), default=0)
    heading = MARGIN + max(_text_width(title, TITLE_SIZE, "bold"), _text_width(caption, CAPTION_SIZE))
    width = max(left + canvas.shape[1], heading) + MARGIN
    height = HEADING + (COLUMN_LABELS if column_labels else 0) + canvas.shape[0] + MARGIN
    figure = _figure(width, height, title, caption)
    axes = figure.add_axes((left / width, MARGIN / height, canvas.shape[1] / width, canvas.shape[0] / height))
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(rows_at if row_labels else [], row_labels)
    axes.set_xticks(columns_at.reshape(-1, group).mean(axis=1) if column_labels else [], column_labels)
    axes.tick_params(length=0, labelsize=TEXT_SIZE, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def _tile(
    images: np.ndarray, row_breaks: Sequence[int], column_breaks: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join images of shape `(rows, columns, height, width)` into one on white, with more space at the breaks.

    Returns:
        The image, and the centres of its rows and of its columns in pixels.
    """
    rows, columns, height, width = images.shape
    tops, lefts = _starts(rows, height, row_breaks), _starts(columns, width, column_breaks)
    canvas = np.ones((tops[-1] + height, lefts[-1] + width))
    for row, column in np.ndindex(rows, columns):
        canvas[tops[row] :, lefts[column] :][:height, :width] = images[row, column]
    return canvas, tops + (height - 1) / 2, lefts + (width - 1) / 2


def _starts(count: int, size: int, breaks: Sequence[int]) -> np.ndarray:
    positions = np.arange(count)
    return positions * (size + GUTTER) + BREAK * np.searchsorted(breaks, positions, side="right")


def _text_width(text: str, size: float, weight: str = "normal") -> int:
    outline = TextPath((0, 0), text, prop=FontProperties(size=size, weight=weight))
    return math.ceil(outline.get_extents().width / 72 / UNIT)


def _chart(width: int, height: int, title: str, caption: str) -> Figure:
    figure = _figure(width, height, title, caption)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - HEADING / height))
    return figure


def _figure(width: int, height: int, title: str, caption: str) -> Figure:
    figure = Figure((width * UNIT, height * UNIT), facecolor="white")
    x = MARGIN / width
    figure.text(x, 1 - 4 / height, title, va="top", fontsize=TITLE_SIZE, fontweight="bold")
    figure.text(x, 1 - 21 / height, caption, va="top", fontsize=CAPTION_SIZE, color="0.35")
    return figure
