"""Saving a model to a file and loading it: its weights, and what is needed to rebuild it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae import files, modules
from vae.artifacts import check_same_data
from vae.errors import UnfitFile
from vae.model.two_levels import BranchedHVAE, ChainVAE, HierarchicalVAE
from vae.model.vae import VAE
from vae.settings import Model, check_pixels

# Of the file. Format 1 (no `format` in its metadata) has gray images without a channel axis.
FORMAT = 3
# What the settings in files of formats 1 and 2 lack, as it was not a setting then.
FIXED_UP_TO_2 = {"dropout": 0.0, "center_inputs": True, "clip_log_variance": False, "flow_mixing": "reversal"}

_TRAINING = {"train": dict, "provenance": dict, "epochs": int, "best_epoch": int}  # metadata that a trained model has

# A new arrangement of levels is one class and one line here.
LEVELS: dict[str, type[VAE]] = {
    "one": VAE,
    "iwae": ChainVAE,
    "hvae": HierarchicalVAE,
    "hvae_branched": BranchedHVAE,
}


def make_model(settings: Model, image_shape: tuple[int, int, int], classes: int) -> VAE:
    """Build the model from its settings, for images of shape (channels, height, width) and `classes` classes."""
    return LEVELS[settings.levels](settings, image_shape, classes)


def save(model: VAE, path: str | Path, settings: Model, metadata: dict[str, Any]) -> None:
    """Write the weights, the settings needed to rebuild the model, and metadata about its training.

    The metadata must hold `classes`, the names of the data set's classes.
    """
    header = {**metadata, "format": FORMAT, "model": settings.model_dump(), "image_shape": list(model.image_shape)}
    files.write_tensors(path, model.state_dict(), header)


def load(path: str | Path, device: str = "cpu") -> VAE:
    """Rebuild a saved model, ready to use: in evaluation mode, its parameters fixed, its `metadata` filled in.

    Raises:
        InputError: the file is missing or damaged, or a newer version of this project wrote it.
    """
    model, model.metadata = modules.load(path, device, "model", _build)
    return model


def load_trained(path: str | Path, prepared: Mapping[str, Any], device: str = "cpu") -> VAE:
    """Load a model that must have been trained on images with the metadata `prepared`.

    Raises:
        InputError: as `load` does, or the model was trained on other images or its file does not describe that.
    """
    model = load(path, device)
    if missing := [key for key, kind in _TRAINING.items() if not isinstance(model.metadata.get(key), kind)]:
        raise UnfitFile(path, f"its metadata does not hold {missing[0]}")
    check_same_data(path, model.metadata | {"image_shape": list(model.image_shape)}, prepared)
    return model


def _build(metadata: Mapping[str, Any]) -> VAE:
    if (written := metadata.get("format", 1)) > FORMAT:
        raise ValueError(f"written by a newer version of this project: format {written}, known here: up to {FORMAT}")
    if type(written) is not int or written < 1:
        raise ValueError(f"its format is {written!r}, known here: 1 to {FORMAT}")
    channels, height, width = [1, *metadata["image_shape"]] if written == 1 else metadata["image_shape"]
    if min(channels, height, width) < 1:
        raise ValueError(f"its image_shape is {metadata['image_shape']}, expected sizes of at least 1")
    values = metadata["model"] if written > 2 else FIXED_UP_TO_2 | metadata["model"]
    settings, classes = Model(**values), metadata["classes"]
    if not isinstance(classes, list) or not classes:
        raise ValueError(f"its classes are {classes!r}, expected a list of names")
    if "binarization" in metadata:
        check_pixels(settings.likelihood, metadata["binarization"])
    return make_model(settings, (channels, height, width), len(classes))
