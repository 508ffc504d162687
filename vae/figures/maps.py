"""The latent space in two dimensions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from vae.figures.captions import METHODS
from vae.figures.layout import (
    CAPTION_SIZE,
    GUTTER,
    HEADING,
    MARGIN,
    SMALL_IMAGE,
    TEXT_SIZE,
    TITLE_SIZE,
    canvas_axes,
    chart,
    enlarge,
    heading,
    text_width,
)

_PANELS_ACROSS = 5
_MAP = 680  # units that a map of images is wide or, where it is taller, high
_FRAME = 2  # units around an image
_LEGEND = 40  # units beside the classes' names in a legend


def embedding(points: pd.DataFrame, classes: Sequence[str], method: str, caption: str) -> Figure:
    """Show the posterior means in two dimensions, coloured by class, with each class's name at its median.

    Args:
        points: a row an image; columns `x`, `y` and `label`, the class's name.
        classes: the classes' names in the legend's order.
        method: how the two dimensions came about, `tsne` or `pca`.
        caption: the title's second line.
    """
    name = METHODS[method]
    figure = chart(600, 480, f"{name} of the posterior means of {len(points):,} test images", caption)
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


def embedding_by_class(points: pd.DataFrame, classes: Sequence[str], method: str, caption: str) -> Figure:
    """Show where each class lies in the embedding: a panel a class, in colour over all others in grey.

    Args:
        points: a row an image; columns `x`, `y` and `label`, the class's name.
        classes: the classes' names in the panels' order.
        method: how the two dimensions came about, `tsne` or `pca`.
        caption: the title's second line.
    """
    columns = min(len(classes), _PANELS_ACROSS)
    rows = -(-len(classes) // columns)
    title = f"{METHODS[method]} of the posterior means of {len(points):,} test images, by class"
    figure = chart(
        max(130 * columns, text_width(title, TITLE_SIZE, "bold") + 2 * MARGIN), HEADING + 145 * rows, title, caption
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    colours = seaborn.color_palette("colorblind", len(classes))
    for axes, name, colour in zip(panels, classes, colours, strict=False):
        members = points["label"] == name
        for part, shade, size in ((points[~members], "0.85", 2), (points[members], colour, 2.5)):
            axes.plot(part["x"], part["y"], ".", color=shade, markersize=size, markeredgewidth=0)
        axes.set_title(f"{name} ({members.sum():,})", loc="left", fontsize=TEXT_SIZE)
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_color("0.8")
    for axes in panels[len(classes) :]:
        axes.remove()
    return figure


def embedding_thumbnails(
    points: pd.DataFrame, images: np.ndarray, classes: Sequence[str], method: str, caption: str
) -> Figure:
    """Show test images at their places in the embedding, framed in their class's colour; none covers another.

    Args:
        points: a row an image; columns `x`, `y` and `label`, the class's name.
        images: these images in [0, 1], of shape `(n, height, width)`.
        classes: the classes' names in the legend's order.
        method: how the two dimensions came about, `tsne` or `pca`.
        caption: the title's second line.
    """
    colours = np.array(seaborn.color_palette("colorblind", len(classes)))
    framed = _frame(images, colours[[classes.index(label) for label in points["label"]]])
    places = _places(points[["x", "y"]].to_numpy(), framed.shape[1])
    kept = _thin(places, framed.shape[1] + GUTTER)
    canvas = np.ones((*(places.max(axis=0) + framed.shape[1]), 3))
    for index in kept:
        row, column = places[index]
        canvas[row:, column:][: framed.shape[1], : framed.shape[2]] = framed[index]

    title = f"{METHODS[method]} of the posterior means: {len(kept)} of {len(points):,} test images"
    legend = _LEGEND + max(text_width(name, TEXT_SIZE) for name in classes)
    headed = max(text_width(title, TITLE_SIZE, "bold"), text_width(caption, CAPTION_SIZE))
    width = 2 * MARGIN + max(canvas.shape[1] + legend, headed)
    height = HEADING + MARGIN + max(canvas.shape[0], 20 * (len(classes) + 1))
    figure = heading(width, height, title, caption)
    canvas_axes(figure, canvas, MARGIN, MARGIN).set(xticks=[], yticks=[])
    figure.legend(
        [Line2D([], [], marker="s", linestyle="", markersize=8, color=colour) for colour in colours],
        classes,
        loc="center right",
        bbox_to_anchor=(1, (height - HEADING) / 2 / height),
        title="class",
        alignment="left",
        frameon=False,
        fontsize=TEXT_SIZE,
        title_fontsize=TEXT_SIZE,
        handletextpad=0.2,
    )
    return figure


def _frame(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Enlarge images (n, height, width) and frame each in its colour (n, 3); RGB of shape (n, height, width, 3)."""
    enlarged = enlarge(images[:, None], SMALL_IMAGE)[:, 0]
    _, height, width = enlarged.shape
    framed = np.empty((len(images), height + 2 * _FRAME, width + 2 * _FRAME, 3))
    framed[:] = colours[:, None, None]
    framed[:, _FRAME:-_FRAME, _FRAME:-_FRAME] = enlarged[..., None]
    return framed


def _places(points: np.ndarray, size: int) -> np.ndarray:
    """Find the top rows and left columns of images of so many units whose centres lie as points (n, 2) do."""
    low = points.min(axis=0)
    extent = (points.max(axis=0) - low).max()
    x, y = np.rint((points - low) * ((_MAP - size) / extent if extent else 0)).astype(int).T
    return np.stack([y.max() - y, x], axis=1)


def _thin(places: np.ndarray, distance: int) -> list[int]:
    """Take those of places (n, 2), one after the other, that lie so far from all before in a row or a column."""
    kept: list[int] = []
    for index, place in enumerate(places):
        if (np.abs(places[kept] - place).max(axis=1) >= distance).all():
            kept.append(index)
    return kept


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
