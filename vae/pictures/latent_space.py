"""Decoded points of the latent space: along lines, along dimensions, over a plane."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from vae.pictures.captions import number
from vae.pictures.layout import SMALL_IMAGE, gallery
from vae.pictures.picture import picture
from vae.pictures.results import Results

if TYPE_CHECKING:
    from vae.model import VAE

_LINE_STEPS = 11
_DIMENSIONS, _SHIFTS = 10, np.linspace(-3, 3, 13)  # standard deviations
_GRID = 21
_TICKS = 5  # grid points between labeled coordinates


@picture(
    group="latent-space",
    title="Interpolations",
    shows="Decoded images on the way from one test image's code to another's.",
    look="Intermediate steps should still look like a class. Ghosts of both ends indicate holes in the latent space.",
)
def interpolations(results: Results) -> Figure:
    """From the first test image of each class to that of the next."""
    starts = results.first_of_each_class(1)[:, 0]
    decoded = interpolate(results.model, results.latents["mean"][starts], results.labels[starts], _LINE_STEPS)
    originals = results.originals(starts)
    ends = np.roll(originals, -1, axis=0)
    return interpolations_figure(originals, decoded, ends, results.model.classes > 0, results.caption)


def interpolations_figure(
    starts: np.ndarray, decoded: np.ndarray, ends: np.ndarray, conditional: bool, caption: str
) -> Figure:
    """Show decoder means along straight lines between posterior means, framed by the images at both ends.

    Args:
        starts: images in [0, 1] at the lines' starts, of shape `(lines, channels, height, width)`.
        decoded: decoder means at equal distances, both ends included, of shape
            `(lines, steps, channels, height, width)`.
        ends: the images at the lines' ends, of the shape of `starts`.
        conditional: whether the decoder gets the label of the nearer end.
        caption: the title's second line.
    """
    return gallery(
        np.concatenate([starts[:, None], decoded, ends[:, None]], axis=1),
        title="Interpolations between posterior means" + (", labeled as the nearer end" if conditional else ""),
        caption=caption,
        image_size=SMALL_IMAGE,
        column_labels=[("start", 1), ("decoded along a straight line", decoded.shape[1]), ("end", 1)],
    )


@torch.inference_mode()
def interpolate(model: "VAE", means: np.ndarray, labels: np.ndarray, steps: int) -> np.ndarray:
    """Decode points on the straight lines from each posterior mean to the next one, from the last to the first.

    Args:
        model: on the CPU.
        means: float32 of shape `(n, latent_dim)`.
        labels: their images' classes, int64 of shape `(n,)`; a conditional model is given the nearer end's.
        steps: points on a line at equal distances, both ends included.

    Returns:
        The decoder's means, of shape `(n, steps, channels, height, width)`.
    """
    share = np.linspace(0, 1, steps, dtype=np.float32)
    ends = np.roll(means, -1, axis=0)
    latents = means[:, None] + share[:, None] * (ends - means)[:, None]
    nearer = np.where(share < 0.5, labels[:, None], np.roll(labels, -1)[:, None])
    return _decode(model, latents, nearer)


@picture(
    group="latent-space",
    title="Traversals",
    shows="Decoded images as one latent dimension at a time moves from low to high, the most active dimension first.",
    look="Each row should change one trait smoothly, such as slant, weight or a loop.",
)
def traversals(results: Results) -> Figure:
    """The dimensions with the largest KL, from the first test image."""
    means, kl = results.latents["mean"], results.latents["kl_per_dimension"]
    dimensions = np.argsort(-kl, kind="stable")[:_DIMENSIONS]
    label = results.labels[0]
    decoded = traverse(results.model, means[0], means.std(axis=0), dimensions, _SHIFTS, label)
    name = results.classes[label]
    return traversals_figure(decoded, dimensions, kl[dimensions], _SHIFTS, name, results.caption)


def traversals_figure(
    decoded: np.ndarray, dimensions: Sequence[int], kl: Sequence[float], steps: Sequence[float], name: str, caption: str
) -> Figure:
    """Show decoder means as one latent dimension after another moves and the others stay fixed.

    Args:
        decoded: images in [0, 1], of shape `(dimensions, steps, channels, height, width)`.
        dimensions: the numbers of the dimensions that move.
        kl: their KL in nats.
        steps: how far they move from the image's posterior mean, in standard deviations of the test images' posterior
            means.
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


@torch.inference_mode()
def traverse(
    model: "VAE", mean: np.ndarray, spread: np.ndarray, dimensions: np.ndarray, steps: np.ndarray, label: int
) -> np.ndarray:
    """Decode a latent vector as one dimension after another moves by `steps` times its spread.

    Args:
        model: on the CPU.
        mean: the vector, float32 of shape `(latent_dim,)`.
        spread: each dimension's unit, of the same shape.
        dimensions: those that move, int64 of shape `(k,)`.
        steps: how far they move, of shape `(s,)`.
        label: the image's class.

    Returns:
        The decoder's means, of shape `(k, s, channels, height, width)`.
    """
    latents = np.tile(mean, (len(dimensions), len(steps), 1))
    for row, dimension in enumerate(dimensions):
        latents[row, :, dimension] += steps * spread[dimension]
    return _decode(model, latents, label)


@picture(
    group="latent-space",
    title="Manifold",
    shows="Decoded images on a grid over the two-dimensional latent space.",
    look="Classes should blend into each other without empty stretches.",
    applies=lambda results: results.model.latent_dim == 2,
)
def manifold(results: Results) -> Figure:
    """A two-dimensional latent space; for a conditional model, with the class of the first test image."""
    plane = decode_plane(results.model, results.latents["mean"], _GRID, results.labels[0])
    name = results.classes[results.labels[0]] if results.model.classes else None
    return manifold_figure(*plane, name, results.caption)


def manifold_figure(
    decoded: np.ndarray, across: Sequence[float], up: Sequence[float], places: str, name: str | None, caption: str
) -> Figure:
    """Show the decoder's means on a grid over a two-dimensional latent space.

    Args:
        decoded: images in [0, 1], of shape `(len(up), len(across), channels, height, width)`, the highest place first.
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


class Plane(NamedTuple):
    """A decoded grid over two latent dimensions, (rows, columns, channels, height, width), and where its places are."""

    decoded: np.ndarray
    across: np.ndarray
    up: np.ndarray
    places: str


@torch.inference_mode()
def decode_plane(model: "VAE", means: np.ndarray, size: int, label: int) -> Plane:
    """Decode a two-dimensional latent space at `size` times `size` places, the second dimension falling by rows.

    Under a standard normal prior they are its quantiles (Kingma & Welling 2014, figure 4), under any other those of
    the test images' posterior means, of shape (n, 2). A conditional model is given the label of one class.
    """
    # Equal shares of the probability, with half a share beyond each end.
    shares = (np.arange(size) + 0.5) / size
    if model.settings.levels == "one" and model.settings.prior == "standard_normal":
        across = rising = torch.special.ndtri(torch.from_numpy(shares)).numpy()
        places = "the prior's quantiles"
    else:
        across, rising = np.quantile(means, shares, axis=0).T
        places = "the posterior means' quantiles"
    up = rising[::-1]
    grid = np.stack(np.meshgrid(across, up), axis=-1).astype(np.float32)
    return Plane(_decode(model, grid, label), across, up, places)


def _decode(model: "VAE", latents: np.ndarray, labels: np.ndarray | int) -> np.ndarray:
    return model.decode(torch.from_numpy(latents), torch.as_tensor(labels)).numpy()


def _coordinates(name: str, values: Sequence[float]) -> list[str]:
    """Label every few values, counting from the middle one, which gets the name."""
    middle = len(values) // 2
    texts = [number(value, 2) if (place - middle) % _TICKS == 0 else "" for place, value in enumerate(values)]
    texts[middle] = f"{name} = {texts[middle]}"
    return texts


def _shift(step: float) -> str:
    """A whole number of standard deviations; empty for values in between."""
    if step != round(step):
        return ""
    return f"{'+' if step > 0 else ''}{number(step, 0)} sd" if step else "mean"
