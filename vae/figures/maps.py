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
    COLUMN_LABELS,
    HEADING,
    MARGIN,
    SMALL_IMAGE,
    TEXT_SIZE,
    TITLE_SIZE,
    chart,
    enlarge,
    gallery,
    text_width,
)

_PANELS_ACROSS, _PANEL = 5, 130  # panels, and the units that one is wide
_COLOUR = "#0173b2"
_CELLS = 20  # along the longer side of the grid of images
_FRAME = 2  # units around an image
_LEAST_ROWS = 7  # of that grid, which leave room for the legend
_LEGEND = 40  # units beside the classes' names
_LEGEND_STYLE = {
    "title": "class",
    "alignment": "left",
    "frameon": False,
    "fontsize": TEXT_SIZE,
    "title_fontsize": TEXT_SIZE,
    "handletextpad": 0.2,
}


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
        **_LEGEND_STYLE,
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
    width = max(_PANEL * columns, text_width(title, TITLE_SIZE, "bold") + 2 * MARGIN)
    figure = chart(width, HEADING + rows * (_PANEL + COLUMN_LABELS), title, caption)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    centre, reach = _square(points[["x", "y"]].to_numpy())
    for axes, name in zip(panels, classes, strict=False):
        members = points["label"] == name
        for part, colour, size in ((points[~members], "0.85", 2), (points[members], _COLOUR, 2.5)):
            axes.plot(part["x"], part["y"], ".", color=colour, markersize=size, markeredgewidth=0)
        axes.set_title(f"{name} ({members.sum():,})", loc="left", fontsize=TEXT_SIZE)
        axes.set(xlim=centre[0] + reach, ylim=centre[1] + reach, aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_color("0.8")
    for axes in panels[len(classes) :]:
        axes.remove()
    return figure


def embedding_thumbnails(
    points: pd.DataFrame, images: np.ndarray, classes: Sequence[str], method: str, caption: str
) -> Figure:
    """Show test images in the cells of a grid where they lie in the embedding, framed in their class's colour.

    Of the images in a cell only the one nearest to its centre is shown, so that none covers another.

    Args:
        points: a row an image; columns `x`, `y` and `label`, the class's name.
        images: these images in [0, 1], of shape `(n, height, width)`.
        classes: the classes' names in the legend's order.
        method: how the two dimensions came about, `tsne` or `pca`.
        caption: the title's second line.
    """
    shown, cells = _thin(points[["x", "y"]].to_numpy())
    colours = np.array(seaborn.color_palette("colorblind", len(classes)))
    framed = _frame(images[shown], colours[[classes.index(label) for label in points["label"].iloc[shown]]])
    rows, columns = cells.max(axis=0) + 1
    cells[:, 0] += max(0, _LEAST_ROWS - rows) // 2
    grid = np.ones((max(rows, _LEAST_ROWS), columns, *framed.shape[1:]))
    grid[*cells.T] = framed
    figure = gallery(
        grid,
        title=f"{METHODS[method]} of the posterior means: {len(shown)} of {len(points):,} test images",
        caption=caption,
        image_size=SMALL_IMAGE,
        right=_LEGEND + max(text_width(name, TEXT_SIZE) for name in classes),
    )
    images_at = figure.axes[0].get_position()
    figure.legend(
        [Line2D([], [], marker="s", linestyle="", markersize=8, color=colour) for colour in colours],
        classes,
        loc="center left",
        bbox_to_anchor=(images_at.x1, (images_at.y0 + images_at.y1) / 2),
        **_LEGEND_STYLE,
    )
    return figure


def _square(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the centre of points (n, 2), and how far a square around it reaches to its two sides."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.53 * ((high - low).max() or 1)
    return (low + high) / 2, np.array([-half, half])


def _thin(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort points (n, 2) into a grid's cells, and find the one nearest to the centre of each that has any.

    Returns:
        The points' indices of shape `(k,)`, and their cells' rows, from the top, and columns, of shape `(k, 2)`.
    """
    low = points.min(axis=0)
    extent = (points.max(axis=0) - low).max() or 1
    places = (points - low) / extent * (_CELLS - 1)
    cells = np.rint(places).astype(int)
    order = np.argsort(np.square(places - cells).sum(axis=1), kind="stable")
    taken, first = np.unique(cells[order], axis=0, return_index=True)
    return order[first], np.stack([taken[:, 1].max() - taken[:, 1], taken[:, 0]], axis=1)


def _frame(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Enlarge images (n, height, width) and frame each in its colour (n, 3); RGB of shape (n, height, width, 3)."""
    enlarged = enlarge(images[:, None], SMALL_IMAGE)[:, 0]
    _, height, width = enlarged.shape
    framed = np.empty((len(images), height + 2 * _FRAME, width + 2 * _FRAME, 3))
    framed[:] = colours[:, None, None]
    framed[:, _FRAME:-_FRAME, _FRAME:-_FRAME] = enlarged[..., None]
    return framed


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
