"""Train the model on data/prepared; write it, snapshots of its reconstructions, the ELBO's history and metrics."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

from stages import run
from vae import ranks
from vae.artifacts import HISTORY
from vae.data.splits import read_splits
from vae.device import set_up
from vae.errors import UnfitFile, WorkError
from vae.files import write_arrays, write_csv, write_json
from vae.identity import code_identity, versions
from vae.model import VAE, make_model, save
from vae.model.distributions.likelihoods import mark_relaxed
from vae.settings import Settings, Train, check_pixels
from vae.training import checkpoints, loop, signals
from vae.training.choices import resolved
from vae.training.conditions import as_begun, conditions, say_what_differs
from vae.training.data import Data
from vae.training.initialization import initialize
from vae.training.progress import Progress
from vae.training.tensorboard import Curves

PREPARED, SCRATCH = Path("data/prepared"), Path("data/.checkpoints")
FINISH = Path("data/.finish")  # created by a person who wants the training to end after its epoch
OF_LATER_STAGES = (Path("metrics/evaluate.json"), Path("metrics/sample.json"))  # which judge the model
ROOT = Path(__file__).resolve().parents[1]
CODE = ("stages/train.py", "vae/data", "vae/model", "vae/training")  # as in dvc.yaml


def train_stage(settings: Settings) -> None:
    """Train, resuming from the checkpoint of an interrupted run if there is one, and write the results."""
    device = set_up(settings.train.device)
    data, indices, metadata = read_data(settings)
    pyro.set_rng_seed(settings.train.seed)
    images = data.train.images
    model = make_model(settings.model, tuple(images.shape[1:]), len(metadata["classes"]))
    initialize(model, images, settings.train)
    identity = identify(settings, data, metadata, device)
    folder = ranks.from_first(lambda: _claim(identity))
    check_same_on_ranks(identity)
    train, now = as_begun_in(folder, settings.train, len(images), device)
    progress, cut_short = _train(model.to(device), data, settings, train, folder)
    if ranks.rank() > 0:
        return
    _write(model, progress, indices, resolved(train, len(images), device), metadata | _provenance(identity, now))
    write_progress(progress, settings, cut_short)
    if cut_short:
        print(
            f"ended as asked after epoch {progress.epoch} of {settings.train.epochs}; metrics/train.json says so, but "
            "DVC takes it for the full run: `dvc repro --force --single-item train` trains the rest"
        )
    elif not settings.train.keep_checkpoint:
        with suppress(OSError):  # the results are complete without it
            checkpoints.remove(folder)


def _claim(identity: dict[str, Any]) -> Path:
    """The folder of the run's checkpoints; says why those in other folders are not used."""
    folder = checkpoints.claim(SCRATCH, identity)
    for other, reason in checkpoints.others(SCRATCH, identity).items():
        print(f"{other}: not used, {reason}; `python -m tools.checkpoints --remove` removes such folders")
    return folder


def as_begun_in(folder: Path, train: Train, images: int, device: torch.device) -> tuple[Train, dict[str, Any]]:
    """The settings and conditions of a new run, or of an interrupted one as far as they are possible here."""
    before = ranks.from_first(lambda: checkpoints.conditions(folder))
    default = conditions(train, images, device)
    train = as_begun(train, images, device, before or {})
    now = conditions(train, images, device)
    if ranks.rank() == 0:
        if before:
            say_what_differs(before, default, now)
        checkpoints.write_conditions(folder, now)
    return train, now


def _train(model: VAE, data: Data, settings: Settings, train: Train, folder: Path) -> tuple[Progress, bool]:
    """Train under the eyes of whoever watches; also return whether somebody had it end before its last epoch."""
    watched = settings.train.tensorboard and ranks.rank() == 0
    curves = Curves(Path(settings.train.tensorboard) / folder.name) if watched else None
    # Until their stages run again they are another model's; without them `dvc exp show` shows no value.
    for path in (*OF_LATER_STAGES, FINISH):  # the last one was meant for an earlier run
        path.unlink(missing_ok=True)
    cut_short = False

    next_writing = 0.0

    def after_epoch(progress: Progress) -> None:
        nonlocal next_writing
        started = time.monotonic()
        if ranks.rank() > 0 or started < next_writing:
            return
        with suppress(PermissionError):  # Windows replaces no file that somebody reads; the next epoch does
            write_progress(progress, settings, durable=False)
        if curves:
            curves.write(progress.history)
        # The whole history is written each time, which after thousands of short epochs takes longer than one of them.
        next_writing = started + 20 * (time.monotonic() - started)

    def finish_now() -> bool:
        nonlocal cut_short
        cut_short = ranks.any_of(bool(received) or FINISH.exists())
        return cut_short

    with signals.collected(signals.FINISH) as received:
        progress = loop.train(model, data, train, folder, after_epoch, finish_now)
    if curves:
        curves.write(progress.history)
    FINISH.unlink(missing_ok=True)
    return progress, cut_short


def read_data(settings: Settings) -> tuple[Data, np.ndarray, dict[str, Any]]:
    """The prepared data, the places of the shown images in the test split, and the training split's metadata."""
    validated = ["validation"] if (PREPARED / "validation.safetensors").exists() else []
    splits, metadata = read_splits(PREPARED, "train", "test", *validated)
    try:
        check_pixels(settings.model.likelihood, metadata["binarization"])
    except ValueError as error:
        raise UnfitFile(PREPARED / "train.safetensors", f"prepared with other settings ({error})") from error
    train, test = splits["train"], splits["test"]
    # One test image per class, to show how reconstructions improve; nothing is learned from them.
    _, first = np.unique(test.labels.numpy(), return_index=True)
    draw = metadata["binarization"] == "dynamic"
    return Data(train, splits.get("validation"), test[first], draw), first, metadata


def identify(settings: Settings, data: Data, metadata: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Everything that the trained model depends on but for rounding, part by part."""
    train = settings.train
    # Only a constant learning rate does not depend on the number of epochs.
    ignored = train.WITHOUT_EFFECT | ({"epochs"} if train.schedule == "constant" else set())
    sections = {"model": settings.model.model_dump(), "train": train.model_dump(exclude=ignored)}
    splits = dict(zip(("train", "validation", "showcase"), data.splits, strict=True))
    images = {name: checkpoints.digest(split.images, split.labels) for name, split in splits.items() if split}
    return {
        "settings": {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()},
        "data": metadata | images,
        "code": {path: code_identity(ROOT / path) for path in CODE},
        "versions": versions(("torch", "pyro-ppl")),
        "device": device.type,
    }


def check_same_on_ranks(identity: dict[str, Any]) -> None:
    """Raise WorkError unless all ranks train the same model on the same data with the same code."""
    first, *others = ranks.gather(identity)
    for number, other in enumerate(others, start=1):
        if different := checkpoints.differences(other, first):
            raise WorkError(f"rank {number} of {ranks.count()} has different {different} than rank 0; make them equal")


def _provenance(identity: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Metadata about the training for the model's file."""
    compiler = {name: value for name, value in now.items() if name == "compiler"}
    several = {"processes": str(now["processes"])} if now["processes"] > 1 else {}
    code = checkpoints.digest(identity["code"])
    return {"provenance": {"code": code, "device": now["machine"], **identity["versions"], **compiler, **several}}


def _write(model: VAE, progress: Progress, indices: np.ndarray, train: Train, metadata: dict[str, Any]) -> None:
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


def write_progress(progress: Progress, settings: Settings, cut_short: bool = False, durable: bool = True) -> None:
    """Write the history and the metrics up to now, whole."""
    # All columns in every run, so that `dvc plots` finds those it draws.
    columns = dict.fromkeys(HISTORY, "")
    write_csv("plots/history.csv", [columns | row for row in progress.history], durable)
    best = progress.history[progress.best_epoch - 1]
    scores = {name: best[name] for name in ("train_elbo", "validation_elbo") if name in best}
    scores = mark_relaxed(scores, settings.model.likelihood) | {"best_epoch": progress.best_epoch}
    write_json("metrics/train.json", scores | ({"epochs": progress.epoch} if cut_short else {}), durable)


if __name__ == "__main__":
    run(train_stage, shared=True)
