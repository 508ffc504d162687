"""The results of a run that pictures draw, and the choice of test images."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from vae.settings import Plot

if TYPE_CHECKING:  # so that the report, which reads the entries' words, does not depend on the model
    from vae.data.images import Split
    from vae.model import VAE


class Results(NamedTuple):
    """Results of the earlier stages: a model, its test images, and arrays, numbers and frames by file.

    Attributes:
        model: on the CPU.
        test: the test split, with `originals`.
        classes: the classes' names.
        caption: what the model was trained on, the second line of every picture's heading.
        snapshots: the arrays in snapshots.npz, reconstructions during training.
        latents: the arrays in latents.npz, the values of each test image.
        samples: the arrays in samples.npz, draws from the model and their nearest training images.
        history: one row per epoch.
        points: the embedding of the first test images; columns `x`, `y` and `label`, the class's name.
        method: how the embedding was made, `tsne` or `pca`.
        active_units: the number of latent dimensions that depend on the image.
        settings: the `plot` section.
    """

    model: "VAE"
    test: "Split"
    classes: list[str]
    caption: str
    snapshots: dict[str, np.ndarray]
    latents: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    history: pd.DataFrame
    points: pd.DataFrame
    method: str
    active_units: int
    settings: Plot

    @property
    def labels(self) -> np.ndarray:
        """The test images' classes, int64 (n,)."""
        return self.test.labels.numpy()

    def originals(self, chosen: np.ndarray) -> np.ndarray:
        """The test images as published, in [0, 1], at indices of any shape: (..., channels, height, width)."""
        return self.test.originals.numpy()[chosen] / 255

    def inputs(self, chosen: np.ndarray) -> np.ndarray:
        """The model's input for these images, in the same shape."""
        return self.test.images.numpy()[chosen] / 255

    @property
    def present(self) -> list[str]:
        """The names of the classes that have test images, in the order of `first_of_each_class`."""
        return [self.classes[label] for label in np.unique(self.labels)]

    def first_of_each_class(self, count: int) -> np.ndarray:
        """Indices of each present class's first test images, at most `count`: (classes, examples)."""
        return first_of_each_class(self.labels, count)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Find the first images of each class: as many per class as the rarest class has, at most `count`.

    Args:
        labels: class of each image, int64 of shape `(n,)`.
        count: maximum number of images per class.

    Returns:
        Indices into `labels`, of shape `(classes, examples)`, for the classes that occur in `labels`.
    """
    return extremes_of_each_class(np.zeros(len(labels)), labels, count)[0]


def extremes_of_each_class(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Find the images of each class with the lowest and the highest values; ties keep their order.

    Args:
        values: one number per image, of shape `(n,)`.
        labels: class of each image, int64 of shape `(n,)`.
        count: maximum number of images per class; lowered to the size of the rarest class.

    Returns:
        Indices of shape `(2, classes, examples)`: the lowest, rising, and the highest, falling.
    """
    present, counts = np.unique(labels, return_counts=True)
    examples = min(count, counts.min())
    members = [np.flatnonzero(labels == label) for label in present]
    ends = [
        [found[np.argsort(sign * values[found], kind="stable")[:examples]] for found in members] for sign in (1, -1)
    ]
    return np.array(ends)
