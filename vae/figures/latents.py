"""Galleries of what the decoder makes of places in the latent space."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vae.figures.captions import number
from vae.figures.layout import SMALL_IMAGE, gallery

_TICKS = 5  # grid points from one coordinate that is written to the next


def interpolations(
    starts: np.ndarray, decoded: np.ndarray, ends: np.ndarray, conditional: bool, caption: str
) -> Figure:
    """Show the decoder's means along straight lines between posterior means, between the images at the lines' ends.

    Args:
        starts: grey-scale images in [0, 1] at the lines' starts, of shape `(lines, height, width)`.
        decoded: the decoder's means at equal distances, both ends included, of shape `(lines, steps, height, width)`.
        ends: the images at the lines' ends, of the shape of `starts`.
        conditional: whether the decoder was given the label of the nearer end.
        caption: the title's second line.
    """
    return gallery(
        np.concatenate([starts[:, None], decoded, ends[:, None]], axis=1),
        title="Interpolations between posterior means" + (", labelled as the nearer end" if conditional else ""),
        caption=caption,
        image_size=SMALL_IMAGE,
        column_labels=[("start", 1), ("decoded along a straight line", decoded.shape[1]), ("end", 1)],
    )


def traversals(
    decoded: np.ndarray, dimensions: Sequence[int], kl: Sequence[float], steps: Sequence[float], name: str, caption: str
) -> Figure:
    """Show the decoder's means while one latent dimension after the other moves and the rest stays.

    Args:
        decoded: images in [0, 1], of shape `(dimensions, steps, height, width)`.
        dimensions: the numbers of the dimensions that move.
        kl: their KL in nats.
        steps: where they move, in standard deviations of the test images' posterior means from one image's own.
        name: that image's class.
        caption: the title's second line.
    """
    return gallery(
        decoded,
        title=f"Traversals of single dimensions from a test image of class {name}",
        caption=caption,
        image_size=SMALL_IMAGE,
        row_labels=[f"z{dimension}: {number(nats, 2)} nats" for dimension, nats in zip(dimensions, kl, strict=True)],
        column_labels=[(_shift(step), 1) for step in steps],
    )


def manifold(
    decoded: np.ndarray, across: Sequence[float], up: Sequence[float], places: str, name: str | None, caption: str
) -> Figure:
    """Show the decoder's means on a grid over a two-dimensional latent space.

    Args:
        decoded: images in [0, 1], of shape `(len(up), len(across), height, width)`, the highest place first.
        across: the columns' places on the first dimension.
        up: the rows' places on the second dimension, falling.
        places: what the grid's places are.
        name: the class that a conditional decoder was given.
        caption: the title's second line.
    """
    return gallery(
        decoded,
        title=f"The latent plane, decoded at {places}" + (f" (class {name})" if name else ""),
        caption=caption,
        image_size=SMALL_IMAGE,
        row_labels=_coordinates("z1", up),
        column_labels=[(label, 1) for label in _coordinates("z0", across)],
    )


def _coordinates(name: str, values: Sequence[float]) -> list[str]:
    """Write every few values, counted from the middle one, which gets the name."""
    middle = len(values) // 2
    texts = [number(value, 2) if (place - middle) % _TICKS == 0 else "" for place, value in enumerate(values)]
    texts[middle] = f"{name} = {texts[middle]}"
    return texts


def _shift(step: float) -> str:
    """A whole number of standard deviations; nothing for what lies between."""
    if step != round(step):
        return ""
    return f"{'+' if step > 0 else ''}{number(step, 0)} sd" if step else "mean"
