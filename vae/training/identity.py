"""What a training's results depend on but for rounding: it names the run's checkpoints and is kept with its model."""

from collections.abc import Mapping
from typing import Any

import torch

from vae import ranks
from vae.errors import WorkError
from vae.identity import versions
from vae.settings import Model, Train
from vae.training import checkpoints
from vae.training.data import Data


def identity_of(
    model: Model,
    train: Train,
    data: Data,
    metadata: Mapping[str, Any],
    device: torch.device,
    code: Mapping[str, str],
) -> dict[str, Any]:
    """Everything that the trained model depends on but for rounding, part by part, as JSON-able values.

    `metadata` is that of the training images, `code` the identity of the code that trains, by path.
    """
    # Only a constant learning rate does not depend on the number of epochs.
    ignored = train.WITHOUT_EFFECT | ({"epochs"} if train.schedule == "constant" else set())
    sections = {"model": model.model_dump(), "train": train.model_dump(exclude=ignored)}
    splits = dict(zip(("train", "validation", "showcase"), data.splits, strict=True))
    images = {name: checkpoints.digest(split.images, split.labels) for name, split in splits.items() if split}
    return {
        "settings": {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()},
        "data": {**metadata, **images},
        "code": dict(code),
        "versions": versions(("torch", "pyro-ppl")),
        "device": device.type,
    }


def check_same_on_ranks(identity: dict[str, Any]) -> None:
    """Raise WorkError unless all ranks train the same model on the same data with the same code."""
    first, *others = ranks.gather(identity)
    for number, other in enumerate(others, start=1):
        if different := checkpoints.differences(other, first):
            raise WorkError(f"rank {number} of {ranks.count()} has different {different} than rank 0; make them equal")


def provenance(identity: Mapping[str, Any], conditions: Mapping[str, Any]) -> dict[str, str]:
    """What a model's file says about the training that made it: code, machine, versions and, if several, processes."""
    compiler = {"compiler": conditions["compiler"]} if "compiler" in conditions else {}
    several = {"processes": str(conditions["processes"])} if conditions["processes"] > 1 else {}
    code = checkpoints.digest(identity["code"])
    return {"code": code, "device": conditions["machine"], **identity["versions"], **compiler, **several}
