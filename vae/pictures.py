"""Which test images, places and draws each picture shows: a run's results in, a figure out."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from vae import exploration, figures
from vae.evaluation.latent import active_units
from vae.model import VAE

EXAMPLES, EXTREMES = 6, 2  # test images of each class
DRAWS_BY_CLASS = 8
LINE_STEPS = 11
DIMENSIONS, SHIFTS = 10, np.linspace(-3, 3, 13)  # standard deviations
GRID = 21
POSTERIOR_DRAWS = 64


class Results(NamedTuple):
    """What a run left: the model on the CPU, the prepared test images, and the stages' arrays and frames.

    `test` holds `originals` and `images`, uint8 (n, height, width), and `labels`, int64 (n,); `snapshots`, `latents`
    and `samples` what the stages wrote into the files of these names. `points` is the embedding of the first test
    images by `method`. `draws` is the number of samples to show, `seed` that of all draws.
    """

    model: VAE
    test: dict[str, Tensor]
    classes: list[str]
    snapshots: dict[str, np.ndarray]
    latents: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    history: pd.DataFrame
    points: pd.DataFrame
    method: str
    draws: int
    seed: int

    @property
    def caption(self) -> str:
        """What every picture says of the model."""
        return figures.describe(self.model.metadata)

    @property
    def labels(self) -> np.ndarray:
        """The test images' classes, (n,)."""
        return self.test["labels"].numpy()

    def originals(self, chosen: np.ndarray) -> np.ndarray:
        """Grey-scale test images in [0, 1], at indices of any shape: (..., height, width)."""
        return self.test["originals"].numpy()[chosen] / 255

    def inputs(self, chosen: np.ndarray) -> np.ndarray:
        """What the model saw of them."""
        return self.test["images"].numpy()[chosen] / 255

    def first_of_each_class(self, count: int) -> np.ndarray:
        """Indices of the first test images of each class, at most so many, (classes, examples)."""
        return exploration.first_of_each_class(self.labels, len(self.classes), count)


def reconstructions(results: Results) -> Figure:
    """The first test images of each class."""
    chosen = results.first_of_each_class(EXAMPLES)
    decoded = exploration.reconstruct(results.model, results.inputs(chosen), results.labels[chosen])
    return figures.reconstructions(
        results.originals(chosen), results.inputs(chosen), decoded, results.classes, results.caption
    )


def reconstructions_extremes(results: Results) -> Figure:
    """The test images of each class with the lowest and the highest reconstruction NLL."""
    nll = results.latents["reconstruction_nll"]
    chosen = exploration.extremes_of_each_class(nll, results.labels, len(results.classes), EXTREMES)
    decoded = exploration.reconstruct(results.model, results.inputs(chosen), results.labels[chosen])
    return figures.reconstructions_extremes(
        results.originals(chosen), results.inputs(chosen), decoded, nll[chosen], results.classes, results.caption
    )


def reconstructions_by_epoch(results: Results) -> Figure:
    """The snapshots that were taken during training."""
    chosen, epochs, decoded = (results.snapshots[name] for name in ("indices", "epochs", "probabilities"))
    return figures.reconstructions_by_epoch(
        results.originals(chosen), results.inputs(chosen), decoded, epochs, results.classes, results.caption
    )


def samples(results: Results) -> Figure:
    """Draws from the prior, of a conditional model for each class in turn."""
    labels = torch.arange(results.draws) % len(results.classes)
    decoded = results.model.sample(results.draws, results.seed, labels)
    return figures.samples(decoded.numpy(), results.caption)


def samples_by_class(results: Results) -> Figure:
    """A conditional model's draws for each class."""
    decoded = exploration.sample_each_class(results.model, DRAWS_BY_CLASS, results.seed)
    return figures.samples_by_class(decoded, results.classes, results.caption)


def samples_neighbours(results: Results) -> Figure:
    """The draws that the sample stage kept."""
    drawn, neighbours = results.samples["samples"] / 255, results.samples["neighbours"] / 255
    return figures.samples_neighbours(drawn, neighbours, results.samples["distances"], results.caption)


def interpolations(results: Results) -> Figure:
    """From the first test image of each class to that of the next."""
    starts = results.first_of_each_class(1)[:, 0]
    decoded = exploration.interpolate(
        results.model, results.latents["mean"][starts], results.labels[starts], LINE_STEPS
    )
    originals = results.originals(starts)
    ends = np.roll(originals, -1, axis=0)
    return figures.interpolations(originals, decoded, ends, results.model.classes > 0, results.caption)


def traversals(results: Results) -> Figure:
    """The dimensions that carry most, from the first test image."""
    means, kl = results.latents["mean"], results.latents["kl_per_dimension"]
    dimensions = np.argsort(-kl, kind="stable")[:DIMENSIONS]
    label = results.labels[0]
    decoded = exploration.traverse(results.model, means[0], means.std(axis=0), dimensions, SHIFTS, label)
    name = results.classes[label]
    return figures.traversals(decoded, dimensions, kl[dimensions], SHIFTS, name, results.caption)


def manifold(results: Results) -> Figure:
    """A latent space of two dimensions; a conditional model's for the class of the first test image."""
    plane = exploration.decode_plane(results.model, results.latents["mean"], GRID, results.labels[0])
    name = results.classes[results.labels[0]] if results.model.classes else None
    return figures.manifold(*plane, name, results.caption)


def uncertainty(results: Results) -> Figure:
    """The first test image of each class."""
    chosen = results.first_of_each_class(1)[:, 0]
    found = exploration.uncertainty(
        results.model, results.inputs(chosen), results.labels[chosen], POSTERIOR_DRAWS, results.seed
    )
    return figures.uncertainty(results.inputs(chosen), *found, results.classes, results.caption)


def embedding(results: Results) -> Figure:
    """All embedded images, coloured by class."""
    return figures.embedding(results.points, results.classes, results.method, results.caption)


def embedding_by_class(results: Results) -> Figure:
    """All embedded images, a panel a class."""
    return figures.embedding_by_class(results.points, results.classes, results.method, results.caption)


def embedding_thumbnails(results: Results) -> Figure:
    """As many of the embedded images as there is room for."""
    originals = results.originals(np.arange(len(results.points)))
    return figures.embedding_thumbnails(results.points, originals, results.classes, results.method, results.caption)


def elbo(results: Results) -> Figure:
    """The course of the training."""
    return figures.elbo(results.history, results.caption)


def kl_per_dimension(results: Results) -> Figure:
    """All latent dimensions."""
    active = active_units(torch.from_numpy(results.latents["mean"]))
    return figures.kl_per_dimension(results.latents["kl_per_dimension"], active, results.caption)


def error_by_class(results: Results) -> Figure:
    """All test images."""
    return figures.error_by_class(results.latents, results.labels, results.classes, results.caption)


def confusion(results: Results) -> Figure:
    """The nearest-neighbour classifier on all test images."""
    return figures.confusion(results.labels, results.latents["predicted"], results.classes, results.caption)
