"""The model's uncertainty about each pixel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from vae.pictures.layout import BREAK, GUTTER, LARGE_IMAGE, TEXT_SIZE, UNIT, gallery
from vae.pictures.picture import picture
from vae.pictures.results import Results
from vae.seeds import derive

if TYPE_CHECKING:
    from vae.model import VAE

_POSTERIOR_DRAWS = 64
_COLORS = "viridis"
_LARGEST_DEVIATION = 0.5  # the maximum of any distribution on [0, 1]
_BAR, _BAR_ROOM = 10, 50  # units


@picture(
    group="reconstruction",
    title="Uncertainty by pixel",
    shows="Test images and their predictive means over two maps of each pixel's standard deviation: uncertainty of the "
    "latent vector, and the pixel's own noise.",
    look="Uncertainty should be on the edges of strokes; inside a shape it means that the code does not fix the shape.",
)
def uncertainty(results: Results) -> Figure:
    """The first test image of each class."""
    chosen = results.first_of_each_class(1)[:, 0]
    inputs, labels = results.inputs(chosen), results.labels[chosen]
    seed = derive(results.settings.seed, "plot.uncertainty")
    parts = split_variance(results.model, inputs, labels, _POSTERIOR_DRAWS, seed)
    return uncertainty_figure(inputs, *parts, results.present, results.caption)


def uncertainty_figure(
    inputs: np.ndarray,
    means: np.ndarray,
    latent_deviations: np.ndarray,
    noise_deviations: np.ndarray,
    classes: Sequence[str],
    caption: str,
) -> Figure:
    """Show each pixel's uncertainty, split into the part due to the latent vector and the pixel's noise.

    The deviations of a color image's channels are averaged.

    Args:
        inputs: the model's input for one image of each class, in [0, 1], of shape `(classes, channels, height, width)`.
        means: E[x], the decoder's means averaged over draws from the posterior, of the same shape.
        latent_deviations: the square root of Var_z E[x | z], of the same shape.
        noise_deviations: the square root of E_z Var[x | z], of the same shape.
        classes: the classes' names.
        caption: the title's second line.
    """
    colors = matplotlib.colormaps[_COLORS]
    deviations = np.stack([latent_deviations, noise_deviations]).mean(axis=-3)
    colored = np.moveaxis(colors(deviations / _LARGEST_DEVIATION)[..., :3], -1, -3)
    images = np.broadcast_to(np.stack([inputs, means]), colored.shape)  # gray as RGB
    figure = gallery(
        np.concatenate([images, colored]),
        title="Predictive uncertainty: each pixel's standard deviation from two sources",
        caption=caption,
        image_size=LARGE_IMAGE,
        row_labels=["model input", "predictive mean", "latent vector", "pixel noise"],
        column_labels=[(name, 1) for name in classes],
        row_breaks=[2],
        right=_BAR_ROOM,
    )
    place = figure.axes[0].get_position()
    width, _ = figure.get_size_inches() / UNIT
    canvas = figure.axes[0].images[0].get_array()
    # The lower half without the gap: the rows that the color bar explains.
    height = place.height * (len(canvas) - GUTTER - BREAK) / 2 / len(canvas)
    axes = figure.add_axes((place.x1 + BREAK / width, place.y0, _BAR / width, height))
    bar = figure.colorbar(ScalarMappable(cmap=colors), cax=axes, ticks=[0, 0.5, 1])
    low, _, high = bar.ax.set_yticklabels(["0", "0.25", "0.5"], fontsize=TEXT_SIZE)
    low.set_va("bottom")
    high.set_va("top")
    bar.outline.set_visible(False)
    return figure


class Variance(NamedTuple):
    """The result of `split_variance` for n images, each part (n, channels, height, width)."""

    mean: np.ndarray
    latent_deviation: np.ndarray
    noise_deviation: np.ndarray


@torch.inference_mode()
def split_variance(model: "VAE", images: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Variance:
    """Split each pixel's predictive variance by the law of total variance: Var x = Var_z E[x | z] + E_z Var[x | z].

    Over `draws` from the posterior of each of n images (n, channels, height, width) with labels int64 (n,). The mean
    is E_z E[x | z]; the deviations are the roots of the two terms, in units of a pixel from 0 to 1.
    """
    shown, classes = torch.from_numpy(images).float(), torch.from_numpy(labels)
    decoded = model.image_given(model.draw_posterior(shown, draws, seed, classes), classes)
    means = decoded.mean
    parts = means.mean(0), means.var(0, correction=0).sqrt(), decoded.variance.mean(0).sqrt()
    return Variance(*(part.numpy() for part in parts))
