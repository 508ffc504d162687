"""Train the model on data/prepared; write it, snapshots of its reconstructions, the ELBO's history and metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

from stages import run
from vae.data.splits import read_split
from vae.device import set_up
from vae.files import write_arrays, write_csv, write_json
from vae.identity import code_identity, machine, versions
from vae.model import VAE, make_model, save
from vae.model.distributions.likelihoods import mark_relaxed
from vae.settings import Model, Settings, Train
from vae.training import checkpoints
from vae.training.choices import resolved
from vae.training.data import Data
from vae.training.gradients import compiler_version
from vae.training.initialization import initialize
from vae.training.loop import train
from vae.training.progress import Progress

TERMS = ("elbo", "reconstruction_nll", "kl")
HISTORY = (
    "epoch",
    *(f"{split}_{term}" for split in ("train", "validation") for term in TERMS),
    "validation_bound",
    "learning_rate",
)
PREPARED, SCRATCH = Path("data/prepared"), Path("data/.checkpoints")
ROOT = Path(__file__).resolve().parents[1]
CODE = ("stages/train.py", "vae/data", "vae/model", "vae/training")  # as in dvc.yaml


def train_stage(settings: Settings) -> None:
    """Train, resuming from the checkpoint of an interrupted run if there is one, and write the results."""
    device = set_up(settings.train.device)
    data, indices, metadata = _read_data()
    pyro.set_rng_seed(settings.train.seed)
    images = data.train.images
    model = make_model(settings.model, tuple(images.shape[1:]), len(metadata["classes"]))
    initialize(model, images)
    chosen = resolved(settings.train, len(images), device)
    identity = _identity(settings.model, chosen, data, metadata, device)
    folder = checkpoints.claim(SCRATCH, identity)
    for other, reason in checkpoints.others(folder).items():
        print(f"{other}: not used, {reason}; delete it if you no longer need it")
    progress = train(model.to(device), data, settings.train, folder)
    known = metadata | {"provenance": _provenance(identity)}
    _write(model, progress, indices, chosen, known)
    if not settings.train.keep_checkpoint:
        checkpoints.remove(folder)


def _read_data() -> tuple[Data, np.ndarray, dict[str, Any]]:
    split, metadata = read_split(PREPARED / "train.safetensors")
    test, _ = read_split(PREPARED / "test.safetensors")
    validation = None
    if (PREPARED / "validation.safetensors").exists():
        validation, _ = read_split(PREPARED / "validation.safetensors")
    # One test image per class, to show how reconstructions improve; nothing is learned from them.
    _, first = np.unique(test.labels.numpy(), return_index=True)
    return Data(split, validation, test[first], metadata["binarization"] == "dynamic"), first, metadata


def _identity(model: Model, train: Train, data: Data, metadata: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Everything that the trained model depends on, part by part."""
    # Only a constant learning rate does not depend on the number of epochs.
    ignored = train.WITHOUT_EFFECT | ({"epochs"} if train.schedule == "constant" else set())
    sections = {"model": model.model_dump(), "train": train.model_dump(exclude=ignored)}
    splits = dict(zip(("train", "validation", "showcase"), data.splits, strict=True))
    images = {name: checkpoints.digest(split.images, split.labels) for name, split in splits.items() if split}
    return {
        "settings": {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()},
        "data": metadata | images,
        "code": {path: code_identity(ROOT / path) for path in CODE},
        "versions": versions(("torch", "pyro-ppl")) | (compiler_version() if train.step == "compiled" else {}),
        "device": machine(device),
        "threads": torch.get_num_threads(),
    }


def _provenance(identity: dict[str, Any]) -> dict[str, str]:
    """Metadata about the training for the model's file, independent of the machine."""
    return {"code": checkpoints.digest(identity["code"]), "device": identity["device"], **identity["versions"]}


def _write(model: VAE, progress: Progress, indices: np.ndarray, train: Train, metadata: dict[str, Any]) -> None:
    last = progress.history[progress.best_epoch - 1]
    scores = {name: last[name] for name in ("train_elbo", "validation_elbo") if name in last}
    scores = mark_relaxed(scores, model.settings.likelihood)
    known = {
        **metadata,
        "train": train.model_dump(exclude=set(train.WITHOUT_EFFECT)),
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "latent_dim": model.latent_dim,
    }
    save(model, "data/model.safetensors", model.settings, known)
    epochs = np.array(list(progress.snapshots))
    probabilities = torch.stack(list(progress.snapshots.values())).numpy()
    write_arrays("data/snapshots.npz", {"indices": indices, "epochs": epochs, "probabilities": probabilities})
    # All columns in every run, so that `dvc plots` finds those it draws.
    columns = dict.fromkeys(HISTORY, "")
    write_csv("plots/history.csv", [columns | row for row in progress.history])
    write_json("metrics/train.json", {**scores, "best_epoch": progress.best_epoch})


if __name__ == "__main__":
    run(train_stage)
