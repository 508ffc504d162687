"""Train the model on data/prepared; write it, snapshots of its reconstructions, the ELBO's history and metrics."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from filelock import FileLock, Timeout

from stages import run
from vae import checkpoint
from vae.device import set_up
from vae.errors import WorkError
from vae.model import VAE, make_model, save
from vae.settings import Settings, mark_relaxed
from vae.storage import read_tensors, write_arrays, write_csv, write_json
from vae.training import Data, Progress, initialize, train

TERMS = ("elbo", "reconstruction_nll", "kl")
HISTORY = ("epoch", *(f"{split}_{term}" for split in ("train", "validation") for term in TERMS), "learning_rate")
PREPARED, SCRATCH = Path("data/prepared"), Path("data/.checkpoints")


def train_stage(settings: Settings) -> None:
    """Train under a lock: a DVC that was killed leaves its stage running, and the next one must not join it."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(SCRATCH / "lock", timeout=0):
            _train(settings)
    except Timeout as error:
        raise WorkError(f"{SCRATCH}/lock: another training runs in this folder; wait for it or end it") from error


def _train(settings: Settings) -> None:
    device = set_up(settings.train.device)
    data, indices, metadata = _read_data()
    pyro.set_rng_seed(settings.train.seed)
    images = data.train["images"]
    model = make_model(settings.model, tuple(images.shape[1:]), len(metadata["classes"]))
    initialize(model, images)
    folder = SCRATCH / _identity(settings, data, device)
    for other in checkpoint.others(folder):
        print(f"{other}: set aside, it belongs to other settings, data or code; delete it if it is of no more use")
    progress = train(model.to(device), data, settings.train, folder)
    _write(model, progress, indices, settings, metadata)
    if not settings.train.keep_checkpoint:
        checkpoint.remove(folder)


def _read_data() -> tuple[Data, np.ndarray, dict[str, Any]]:
    split, metadata = read_tensors(PREPARED / "train.safetensors")
    test, _ = read_tensors(PREPARED / "test.safetensors")
    validation = None
    if (PREPARED / "validation.safetensors").exists():
        validation, _ = read_tensors(PREPARED / "validation.safetensors")
    # One test image a class, to show how reconstructions improve; nothing is learned from them.
    _, first = np.unique(test["labels"].numpy(), return_index=True)
    showcase = {name: test[name][first] for name in ("images", "labels")}
    data = Data(split, validation, showcase, metadata["binarization"] == "dynamic")
    return data, first, metadata


def _identity(settings: Settings, data: Data, device: torch.device) -> str:
    """Name everything that the training's bytes depend on; only a constant rate does not depend on `epochs`."""
    ignored = {"checkpoint_every", "keep_checkpoint"} | ({"epochs"} if settings.train.schedule == "constant" else set())
    modules = sorted(name for name in sys.modules if name.split(".")[0] in ("vae", "stages"))
    code = [Path(path).read_bytes() for name in modules if (path := sys.modules[name].__file__)]
    images = [split[name] for split in data.splits if split for name in ("images", "labels")]
    versions = [torch.__version__, pyro.__version__, str(device), torch.get_num_threads()]
    train_settings = settings.train.model_dump(exclude=ignored)
    return checkpoint.digest(settings.model.model_dump(), train_settings, versions, *images, *code)


def _write(model: VAE, progress: Progress, indices: np.ndarray, settings: Settings, metadata: dict[str, Any]) -> None:
    last = progress.history[progress.best_epoch - 1]
    scores = {name: last[name] for name in ("train_elbo", "validation_elbo") if name in last}
    scores = mark_relaxed(scores, settings.model.likelihood)
    known = {
        **metadata,
        "train": settings.train.model_dump(),
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "latent_dim": model.latent_dim,
    }
    save(model, "data/model.safetensors", settings.model, known)
    epochs = np.array(list(progress.snapshots))
    probabilities = torch.stack(list(progress.snapshots.values())).numpy()
    write_arrays("data/snapshots.npz", {"indices": indices, "epochs": epochs, "probabilities": probabilities})
    # Every column always, so that `dvc plots` finds those that it is told to draw.
    columns = dict.fromkeys(HISTORY, "")
    write_csv("plots/history.csv", [columns | row for row in progress.history])
    write_json("metrics/train.json", {**scores, "best_epoch": progress.best_epoch})


if __name__ == "__main__":
    run(train_stage)
