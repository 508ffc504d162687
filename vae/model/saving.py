"""Saving a model to a file and loading it: its weights, and what is needed to rebuild it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae import files, modules
from vae.model.two_levels import BranchedHVAE, ChainVAE, HierarchicalVAE
from vae.model.vae import VAE
from vae.settings import Model

# Of the file. Format 1 (no `format` in its metadata) has gray images without a channel axis.
FORMAT = 3
# What the settings in files of formats 1 and 2 lack, as it was not a setting then.
FIXED_UP_TO_2 = {"dropout": 0.0, "center_inputs": True, "clip_log_variance": False, "flow_mixing": "reversal"}

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


def _build(metadata: Mapping[str, Any]) -> VAE:
    if (written := metadata.get("format", 1)) > FORMAT:
        raise ValueError(f"written by a newer version of this project: format {written}, known here: up to {FORMAT}")
    channels, height, width = [1, *metadata["image_shape"]] if written == 1 else metadata["image_shape"]
    settings = metadata["model"] if written > 2 else FIXED_UP_TO_2 | metadata["model"]
    return make_model(Model(**settings), (channels, height, width), len(metadata["classes"]))
