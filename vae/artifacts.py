"""What the files between stages hold, so that a stage refuses a file that does not fit before it writes anything."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae.errors import UnfitFile, WorkError
from vae.files import read_arrays

FEWEST = 10  # training and test images that the measures, the classifier and the embedding need
# Each array's type and the names of its sizes, equal names for equal sizes. Bounded values start at 0.
LATENTS = {
    "mean": "float32 images latent",
    "labels": "int64 images < classes",
    "nll": "float32 images",
    "elbo": "float32 images",
    "reconstruction_nll": "float32 images",
    "mse": "float32 images",
    "ssim": "float32 images",
    "kl": "float32 images",
    "predicted": "int64 images < classes",
    "kl_per_dimension": "float32 latent",
}
SNAPSHOTS = {
    "indices": "int64 shown < images",
    "epochs": "int64 snapshots <= epochs",
    "probabilities": "float32 snapshots shown channels height width <= 1",
}
HISTORY = (
    "epoch",
    *(f"{split}_{term}" for split in ("train", "validation") for term in ("elbo", "reconstruction_nll", "kl")),
    "validation_bound",
    "learning_rate",
)
SAMPLES = {
    "samples": "uint8 samples channels height width",
    "neighbors": "uint8 samples channels height width",
    "distances": "float32 samples",
    "predicted": "int64 samples < classes",
    "confidence": "float32 samples <= 1",
}
SAME = ("dataset", "binarization", "classes", "image_shape")  # metadata of splits, models and classifiers


def read(path: str | Path, contents: Mapping[str, str], **sizes: int) -> dict[str, np.ndarray]:
    """Read an npz file whose arrays are as `contents` says, with these sizes.

    Raises:
        FileError: the file is missing or damaged, or an array is missing, of another type or shape, not finite or out
            of bounds.
    """
    arrays = read_arrays(path)
    for name, expected in contents.items():
        if name not in arrays:
            raise UnfitFile(path, f"it holds {', '.join(arrays) or 'nothing'}, expected {', '.join(contents)}")
        if wrong := _what_is_wrong(arrays[name], expected, sizes):
            raise UnfitFile(path, f"{name}: {wrong}")
    return arrays


def _what_is_wrong(array: np.ndarray, expected: str, sizes: dict[str, int]) -> str | None:
    form, bound, limit = re.fullmatch(r"([\w ]+?)(?: (<=?) (\w+))?", expected).groups()
    dtype, *names = form.split()
    known = len(names) == array.ndim and [sizes.setdefault(*pair) for pair in zip(names, array.shape, strict=True)]
    if array.dtype != dtype or known != [*array.shape]:
        shape = ", ".join(str(sizes.get(name, name)) for name in names)
        return f"{array.dtype} of shape {array.shape}, expected {dtype} of shape ({shape})"
    if not array.size:
        return "no values"
    if not np.isfinite(array).all():
        return "values that are not finite"
    if limit:
        highest = (sizes[limit] if limit in sizes else int(limit)) - (bound == "<")
        if array.min() < 0 or array.max() > highest:
            return f"values from {array.min():g} to {array.max():g}, expected from 0 to {highest:g}"
    return None


def read_latents(path: str | Path, labels: np.ndarray, classes: int, **sizes: int) -> dict[str, np.ndarray]:
    """Read the values of the test images with these labels, int64 (n,).

    Raises:
        FileError: as `read` does, or the labels in the file are others.
    """
    arrays = read(path, LATENTS, images=len(labels), classes=classes, **sizes)
    if not np.array_equal(arrays["labels"], labels):
        raise UnfitFile(path, "its labels are not those of the test images")
    return arrays


def check_same_data(path: str | Path, found: Mapping[str, Any], prepared: Mapping[str, Any]) -> None:
    """Raise UnfitFile unless a file with the metadata `found` was made from images with the metadata `prepared`."""
    for key in SAME:
        if found.get(key) != prepared.get(key):
            raise UnfitFile(path, f"its {key} is {found.get(key)}, that of the prepared images {prepared.get(key)}")


def check_finite(values: Mapping[str, Any]) -> None:
    """Raise WorkError, which names it, for the first number or array that is not finite."""
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise WorkError(
                f"{name} is not finite, so nothing was written: the model's numbers are too large; train it with a "
                "lower train.learning_rate or with train.gradient_clip (try 10)"
            )
