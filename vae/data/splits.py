"""The training, validation and test splits: made from raw images, written to files and read back."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from vae.artifacts import FEWEST, check_same_data
from vae.data.images import Split, binarize
from vae.errors import SettingError, UnfitFile
from vae.files import read_tensors, write_tensors
from vae.seeds import derive
from vae.settings import Binarization, DatasetName, Prepare

_CHUNK = 10_000  # images checked at a time, so that a large file is not copied


def make_splits(raw: dict[str, tuple[np.ndarray, np.ndarray]], settings: Prepare) -> dict[str, Split]:
    """Split and binarize the raw sets `train` and `test`, each images (n, c, h, w) and labels (n,), both uint8.

    Returns:
        `train`, `test` and, unless validation_size is 0, `validation`. All but `train` keep the grayscale images as
        originals. With dynamic binarization the images of `train` stay grayscale, to be drawn anew for each mini-batch.

    Raises:
        SettingError: validation_size leaves too few images to train on.
    """
    images, labels = (torch.from_numpy(array) for array in raw["train"])
    size = len(images) - settings.validation_size
    if size < FEWEST:
        raise SettingError(
            "prepare.validation_size",
            f"got {settings.validation_size}, allowed: at most {len(images) - FEWEST}, as the data set has "
            f"{len(images)} training images, of which at least {FEWEST} must remain",
        )
    test_images, test_labels = (torch.from_numpy(array) for array in raw["test"])

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive(settings.seed, purpose))

    how = settings.binarization
    splits = {"test": _held_out(test_images, test_labels, how, generator("prepare.test"))}
    if settings.validation_size:
        splits["validation"] = _held_out(images[size:], labels[size:], how, generator("prepare.validation"))
    train_images = images[:size]
    if how != "dynamic":
        train_images = binarize(train_images, how, generator("prepare.training"))
    splits["train"] = Split(train_images, labels[:size].long())
    return splits


def _held_out(images: Tensor, labels: Tensor, how: Binarization, generator: torch.Generator) -> Split:
    return Split(binarize(images, how, generator), labels.long(), originals=images)


def write_split(path: str | Path, split: Split, metadata: dict[str, Any]) -> None:
    """Write one split with metadata: the names of its `classes`, the data set and its binarization."""
    tensors = {name: values for name, values in vars(split).items() if values is not None}
    write_tensors(path, tensors, metadata)


def read_splits(folder: str | Path, *names: str) -> tuple[dict[str, Split], dict[str, Any]]:
    """Read splits that were made together: each by its name, and the metadata that they share.

    Raises:
        FileError: a file is missing, damaged or not a split, has too few images or does not fit the first one.
    """
    splits, shared = {}, {}
    for name in names:
        path = Path(folder) / f"{name}.safetensors"
        splits[name], metadata = read_split(path)
        shared = shared or metadata
        check_same_data(path, metadata, shared)
        if len(splits[name]) < FEWEST and name != "validation":
            raise UnfitFile(path, f"{len(splits[name])} images, expected at least {FEWEST}")
        if splits[name].originals is None and name != "train":
            raise UnfitFile(path, "no originals")
    return splits, shared


def read_split(path: str | Path) -> tuple[Split, dict[str, Any]]:
    """Read a file that `write_split` wrote: the split, and its metadata with the `image_shape` added.

    Raises:
        FileError: the file is missing, damaged or not a split; the message says which and why.
    """
    tensors, metadata = read_tensors(path)
    if wrong := _what_is_wrong(tensors, metadata):
        raise UnfitFile(path, f"not a split that this code can read ({wrong})")
    split = Split(**tensors)
    return split, metadata | {"image_shape": list(split.images.shape[1:])}


def _what_is_wrong(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> str | None:
    if set(tensors) | {"originals"} != {"images", "labels", "originals"}:
        return f"it holds {', '.join(sorted(tensors)) or 'nothing'}, expected images, labels and, optionally, originals"
    images, labels = tensors["images"], tensors["labels"]
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        return f"images: {images.dtype} of shape {tuple(images.shape)}, expected uint8 of shape (n, channels, h, w)"
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        return f"labels: {labels.dtype} of shape {tuple(labels.shape)}, expected int64 of shape ({len(images)},)"
    originals = tensors.get("originals", images)
    if originals.dtype != torch.uint8 or originals.shape != images.shape:
        return f"originals: {originals.dtype} of shape {tuple(originals.shape)}, expected those of the images"
    classes, binarization = metadata.get("classes"), metadata.get("binarization")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        return "its metadata does not name the classes"
    if metadata.get("dataset") not in get_args(DatasetName) or binarization not in get_args(Binarization):
        return "its metadata does not name a data set and a binarization that are known here"
    if labels.min() < 0 or labels.max() >= len(classes):
        return f"labels from {labels.min()} to {labels.max()}, expected from 0 to {len(classes) - 1}"
    # Under dynamic binarization, training images stay gray, and have no originals.
    drawn = binarization in ("static", "threshold") or (binarization == "dynamic" and "originals" in tensors)
    if drawn and not all(((part == 0) | (part == 255)).all() for part in images.split(_CHUNK)):
        return f"gray pixels, expected black and white ones under {binarization} binarization"
    return None
