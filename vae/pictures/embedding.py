"""The latent space in two dimensions: as points, by class, and as images."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from scipy.spatial import KDTree

from vae.pictures.captions import METHODS
from vae.pictures.layout import (
    BLUE,
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
from vae.pictures.picture import picture
from vae.pictures.results import Results

_PANELS_ACROSS, _PANEL = 5, 130  # panels, and the width of one in units
_MANY = 5_000  # points, from which they are drawn at the smallest size
_CELLS = 20  # along the longer side of the grid of images
_FRAME = 2  # units around an image
_LEAST_ROWS = 7  # of that grid, which leave room for the legend
_LEGEND = 40  # units next to the class names
_LEGEND_STYLE = {
    "title": "class",
    "alignment": "left",
    "frameon": False,
    "fontsize": TEXT_SIZE,
    "title_fontsize": TEXT_SIZE,
    "handletextpad": 0.2,
}


@picture(
    group="latent-space",
    title="Embedding",
    shows="Scatter plot of the test images' posterior means in two dimensions, colored by class.",
    look="Islands of one color mean that the code separates the classes. Names are where their class is densest.",
)
def embedding(results: Results) -> Figure:
    """All embedded images, colored by class."""
    return embedding_figure(results.points, results.classes, results.method, results.caption)


def embedding_figure(points: pd.DataFrame, classes: Sequence[str], method: str, caption: str) -> Figure:
    """Show the posterior means in two dimensions, colored by class, with each class's name where it is densest.

    Args:
        points: one row per image; columns `x`, `y` and `label`, the class's name.
        classes: the classes' names in the legend's order.
        method: how the two dimensions came about, `tsne` or `pca`.
        caption: the title's second line.
    """
    import seaborn  # takes a second, which the report, which reads this file's entries, would spend for nothing

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
            densest(members.to_numpy()),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=TITLE_SIZE,
            fontweight="bold",
            path_effects=outline,
        )
        for label, members in points.groupby("label")[["x", "y"]]
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


def densest(points: np.ndarray) -> np.ndarray:
    """The point among (n, 2) whose nearest quarter of the points fits in the smallest circle; shape (2,).

    A median could fall between two clusters, where there are no points.
    """
    quarter = 1 + -(-(len(points) - 1) // 4)  # the point itself is the first
    distances, _ = KDTree(points).query(points, k=[quarter])
    return points[distances[:, 0].argmin()]


@picture(
    group="latent-space",
    title="Embedding, class by class",
    shows="One small scatter plot per class, with its points over all others in gray.",
    look="Look for classes split into several islands, and for islands shared by classes.",
)
def embedding_by_class(results: Results) -> Figure:
    """All embedded images, one panel per class."""
    return embedding_by_class_figure(results.points, results.classes, results.method, results.caption)


def embedding_by_class_figure(points: pd.DataFrame, classes: Sequence[str], method: str, caption: str) -> Figure:
    """Show where each class lies in the embedding: one panel per class, in color over all others in gray.

    Args:
        points: one row per image; columns `x`, `y` and `label`, the class's name.
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
    center, reach = _square(points[["x", "y"]].to_numpy())
    size = np.clip((_MANY / len(points)) ** 0.5, 1, 2)  # so that a few points do not get lost
    for axes, name in zip(panels, classes, strict=False):
        members = points["label"] == name
        for part, color, points_size in ((points[~members], "0.85", 2 * size), (points[members], BLUE, 2.5 * size)):
            axes.plot(part["x"], part["y"], ".", color=color, markersize=points_size, markeredgewidth=0)
        axes.set_title(f"{name} ({members.sum():,})", loc="left", fontsize=TEXT_SIZE)
        axes.set(xlim=center[0] + reach, ylim=center[1] + reach, aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_color("0.8")
    for axes in panels[len(classes) :]:
        axes.remove()
    return figure


def _square(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the center of points (n, 2), and half the side of the square around them."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.53 * ((high - low).max() or 1)
    return (low + high) / 2, np.array([-half, half])


@picture(
    group="latent-space",
    title="Embedding with images",
    shows="The embedding, with small test images at their positions.",
    look="Neighbors should resemble each other in slant and weight, not only in class.",
)
def embedding_thumbnails(results: Results) -> Figure:
    """As many of the embedded images as fit."""
    originals = results.originals(np.arange(len(results.points)))
    return embedding_thumbnails_figure(results.points, originals, results.classes, results.method, results.caption)


def embedding_thumbnails_figure(
    points: pd.DataFrame, images: np.ndarray, classes: Sequence[str], method: str, caption: str
) -> Figure:
    """Show test images at their positions in the embedding, in a grid, framed in their class's color.

    Only the image nearest to the center of each cell is shown, so that none covers another.

    Args:
        points: one row per image; columns `x`, `y` and `label`, the class's name.
        images: these images in [0, 1], of shape `(n, channels, height, width)`.
        classes: the classes' names in the legend's order.
        method: how the two dimensions came about, `tsne` or `pca`.
        caption: the title's second line.
    """
    from seaborn import color_palette

    shown, cells = _thin(points[["x", "y"]].to_numpy())
    colors = np.array(color_palette("colorblind", len(classes)))
    framed = _frame(images[shown], colors[[classes.index(label) for label in points["label"].iloc[shown]]])
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
        [Line2D([], [], marker="s", linestyle="", markersize=8, color=color) for color in colors],
        classes,
        loc="center left",
        bbox_to_anchor=(images_at.x1, (images_at.y0 + images_at.y1) / 2),
        **_LEGEND_STYLE,
    )
    return figure


def _thin(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort points (n, 2) into the cells of a grid, and find the point nearest to each nonempty cell's center.

    Returns:
        The points' indices of shape `(k,)`, and the rows (from the top) and columns of their cells, of shape `(k, 2)`.
    """
    low = points.min(axis=0)
    extent = (points.max(axis=0) - low).max() or 1
    places = (points - low) / extent * (_CELLS - 1)
    cells = np.rint(places).astype(int)
    order = np.argsort(np.square(places - cells).sum(axis=1), kind="stable")
    taken, first = np.unique(cells[order], axis=0, return_index=True)
    return order[first], np.stack([taken[:, 1].max() - taken[:, 1], taken[:, 0]], axis=1)


def _frame(images: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Enlarge images (n, channels, height, width) and frame each in its color (n, 3); RGB (n, 3, height, width)."""
    enlarged = enlarge(images, SMALL_IMAGE)
    height, width = enlarged.shape[-2:]
    framed = np.empty((len(images), 3, height + 2 * _FRAME, width + 2 * _FRAME))
    framed[:] = colors[:, :, None, None]
    framed[:, :, _FRAME:-_FRAME, _FRAME:-_FRAME] = enlarged  # one channel is repeated for all three
    return framed


def _keep_apart(names: list[Annotation]) -> None:
    """Move names up until none covers another."""
    placed: list[Bbox] = []
    for name in sorted(names, key=lambda name: name.xy[1]):
        drawn = box = name.get_window_extent()
        for other in sorted(placed, key=lambda box: box.y0):
            if box.overlaps(other):
                box = box.translated(0, other.y1 - box.y0)
        name.set_position((0, (box.y0 - drawn.y0) * 72 / name.figure.dpi))
        placed.append(box)
