"""Shared layout: headings, plain axes, and galleries of images with undivided pixels."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

TITLE_SIZE, CAPTION_SIZE, TEXT_SIZE, NOTE_SIZE = 13, 11, 10, 8  # points
BLUE, ORANGE = "#0173b2", "#d55e00"

# Pictures are laid out in units that are whole pixels at 75, 150 and 300 dots per inch: images stay sharp.
UNIT = 1 / 75  # inch
HEADING = 40  # the title's two lines
COLUMN_LABELS = 15
ROW_LABEL_PAD = 6
MARGIN = 4
GUTTER = 2  # between images
BREAK = 6  # more, between groups of images
NOTE = 12  # more, under images with a note
SMALL_IMAGE, LARGE_IMAGE = 28, 56
MOST_COLUMNS = 20


def heading(width: int, height: int, title: str, caption: str) -> Figure:
    """Make a figure, its size in units, with its title and, below, its caption."""
    figure = Figure((width * UNIT, height * UNIT), facecolor="white")
    x = MARGIN / width
    figure.text(x, 1 - 4 / height, title, va="top", fontsize=TITLE_SIZE, fontweight="bold")
    figure.text(x, 1 - 21 / height, caption, va="top", fontsize=CAPTION_SIZE, color="0.35")
    return figure


def chart(width: int, height: int, title: str, caption: str) -> Figure:
    """Make a figure whose axes, added later, fill the room below its heading."""
    figure = heading(width, height, title, caption)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - HEADING / height))
    return figure


def plain(axes: Axes, grid: str) -> None:
    """Keep only the two axes that have numbers, with grid lines along `grid`: x, y or both."""
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def gallery(
    images: np.ndarray,
    title: str,
    caption: str,
    image_size: int,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[tuple[str, int]] = (),
    row_breaks: Sequence[int] = (),
    notes: Mapping[int, Sequence[str]] | None = None,
    right: int = 0,
) -> Figure:
    """Show images in a grid, each about `image_size` units high.

    Args:
        images: from 0 to 1, of shape `(rows, columns, channels, height, width)`; one channel is gray, three are RGB.
        title: the first line.
        caption: the second line.
        image_size: the maximum height of an image in units (unless it has more pixels).
        row_labels: labels next to the rows.
        column_labels: labels above columns with the number of columns each spans; groups of several are set apart.
        row_breaks: rows with extra space above them.
        notes: notes below the images of each row.
        right: units to leave free to the right of the images.
    """
    notes = notes or {}
    rows, columns = images.shape[:2]
    enlarged = enlarge(images, image_size)
    row_gaps = [BREAK * (row in row_breaks) + NOTE * (row - 1 in notes) for row in range(rows)]
    spans = [count for _, count in column_labels]
    starts = np.cumsum([0, *spans])
    broken = starts[1:-1] if max(spans, default=1) > 1 else ()
    canvas, rows_at, columns_at = _tile(enlarged, row_gaps, [BREAK * (column in broken) for column in range(columns)])

    left = MARGIN + max((text_width(label, TEXT_SIZE) + ROW_LABEL_PAD for label in row_labels), default=0)
    bottom = MARGIN + NOTE * (rows - 1 in notes)
    headed = MARGIN + max(text_width(title, TITLE_SIZE, "bold"), text_width(caption, CAPTION_SIZE))
    width = max(left + canvas.shape[1] + right, headed) + MARGIN
    height = HEADING + (COLUMN_LABELS if column_labels else 0) + canvas.shape[0] + bottom
    figure = heading(width, height, title, caption)
    axes = figure.add_axes((left / width, bottom / height, canvas.shape[1] / width, canvas.shape[0] / height))
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(rows_at if row_labels else [], row_labels)
    centers = [columns_at[start : start + count].mean() for start, count in zip(starts, spans, strict=False)]
    axes.set_xticks(centers, [label for label, _ in column_labels])
    axes.tick_params(length=0, labelsize=TEXT_SIZE, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    for row, texts in notes.items():
        below = rows_at[row] + enlarged.shape[-2] / 2 + 1
        for column, text in zip(columns_at, texts, strict=True):
            axes.text(column, below, text, ha="center", va="top", fontsize=NOTE_SIZE, color="0.25")
    return figure


def enlarge(images: np.ndarray, size: int) -> np.ndarray:
    """Repeat the pixels of images (..., height, width) as many times as fit into `size` units, at least once."""
    scale = max(1, size // images.shape[-2])
    return images.repeat(scale, axis=-2).repeat(scale, axis=-1)


def _tile(
    images: np.ndarray, row_gaps: Sequence[int], column_gaps: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join images (rows, columns, channels, height, width) into one on white, with these extra gaps before each.

    Returns:
        The image as matplotlib takes it, (height, width) or (height, width, 3), and the centers of its rows and of
        its columns in pixels.
    """
    rows, columns, channels, height, width = images.shape
    tops = np.arange(rows) * (height + GUTTER) + np.cumsum(row_gaps)
    lefts = np.arange(columns) * (width + GUTTER) + np.cumsum(column_gaps)
    canvas = np.ones((channels, tops[-1] + height, lefts[-1] + width))
    for row, column in np.ndindex(rows, columns):
        canvas[:, tops[row] :, lefts[column] :][:, :height, :width] = images[row, column]
    shown = canvas[0] if channels == 1 else canvas.transpose(1, 2, 0)
    return shown, tops + (height - 1) / 2, lefts + (width - 1) / 2


def text_width(text: str, size: float, weight: str = "normal") -> int:
    """The width in units of a line of text whose size is in points."""
    if not text:
        return 0
    outline = TextPath((0, 0), text, prop=FontProperties(size=size, weight=weight))
    # No control point lies outside a glyph, as it has points where it is widest; its extents take ten times as long.
    return math.ceil(np.ptp(outline.vertices[outline.codes != Path.CLOSEPOLY, 0]) / 72 / UNIT)
