"""Train the model on data/prepared; write it, snapshots of its reconstructions, the ELBO's history and metrics."""

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
from vae.errors import UnfitFile
from vae.files import write_arrays, write_csv, write_json
from vae.identity import code_identity
from vae.model import make_model, save
from vae.model.distributions.likelihoods import mark_relaxed
from vae.settings import Settings, check_pixels
from vae.training import checkpoints
from vae.training.choices import resolved
from vae.training.conditions import taken_over
from vae.training.data import Data
from vae.training.identity import check_same_on_ranks, identity_of, provenance
from vae.training.initialization import initialize
from vae.training.progress import Progress, scores
from vae.training.tensorboard import Curves
from vae.training.watching import train_watched

PREPARED, SCRATCH = Path("data/prepared"), Path("data/.checkpoints")
FINISH = Path("data/.finish")  # created by a person who wants the training to end after its epoch
OF_LATER_STAGES = (Path("metrics/evaluate.json"), Path("metrics/sample.json"))  # which judge the model
ROOT = Path(__file__).resolve().parents[1]
CODE = ("stages/train.py", "vae/data", "vae/model", "vae/training")  # as in dvc.yaml


def train_stage(settings: Settings) -> None:
    """Train, resuming from the checkpoint of an interrupted run if there is one, and write the results."""
    device = set_up(settings.train.device)
    data, shown, prepared = read_data(settings)
    images = data.train.images
    pyro.set_rng_seed(settings.train.seed)
    model = make_model(settings.model, tuple(images.shape[1:]), len(prepared["classes"]))
    initialize(model, images, settings.train)

    identity = identify(settings, data, prepared, device)
    folder = ranks.from_first(lambda: claim(identity))
    check_same_on_ranks(identity)
    train, conditions = taken_over(folder, settings.train, len(images), device)
    curves = Curves(Path(train.tensorboard) / folder.name) if train.tensorboard and ranks.rank() == 0 else None
    # Until their stages run again they are another model's; without them `dvc exp show` shows no value.
    for path in (*OF_LATER_STAGES, FINISH):  # the last one was meant for an earlier run
        path.unlink(missing_ok=True)
    progress, cut_short = train_watched(
        model.to(device),
        data,
        train,
        folder,
        write=lambda progress: write_progress(progress, settings, durable=False),
        curves=curves,
        asked=FINISH.exists,
    )
    FINISH.unlink(missing_ok=True)
    if ranks.rank() > 0:
        return

    trained = {
        "provenance": provenance(identity, conditions),
        "train": resolved(train, len(images), device).model_dump(exclude=set(train.WITHOUT_EFFECT)),
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "latent_dim": model.latent_dim,
    }
    save(model, "data/model.safetensors", model.settings, prepared | trained)
    epochs = np.array(list(progress.snapshots))
    probabilities = torch.stack(list(progress.snapshots.values())).numpy()
    write_arrays("data/snapshots.npz", {"indices": shown, "epochs": epochs, "probabilities": probabilities})
    write_progress(progress, settings, cut_short)
    if cut_short:
        print(
            f"ended as asked after epoch {progress.epoch} of {settings.train.epochs}; metrics/train.json says so, but "
            "DVC takes it for the full run: `dvc repro --force --single-item train` trains the rest"
        )
    elif not settings.train.keep_checkpoint:
        with suppress(OSError):  # the results are complete without it
            checkpoints.remove(folder)


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
    binarize = metadata["binarization"] == "dynamic"
    return Data(train, splits.get("validation"), test[first], binarize), first, metadata


def identify(settings: Settings, data: Data, metadata: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What the trained model depends on, with the code that is in the project now."""
    code = {path: code_identity(ROOT / path) for path in CODE}
    return identity_of(settings.model, settings.train, data, metadata, device, code)


def claim(identity: dict[str, Any]) -> Path:
    """The folder of the run's checkpoints; says why those in other folders are not used."""
    folder = checkpoints.claim(SCRATCH, identity)
    for other, reason in checkpoints.others(SCRATCH, identity).items():
        print(f"{other}: not used, {reason}; `python -m tools.checkpoints --remove` removes such folders")
    return folder


def write_progress(progress: Progress, settings: Settings, cut_short: bool = False, durable: bool = True) -> None:
    """Write the history and the metrics up to now, whole."""
    # All columns in every run, so that `dvc plots` finds those it draws.
    columns = dict.fromkeys(HISTORY, "")
    write_csv("plots/history.csv", [columns | row for row in progress.history], durable)
    metrics = mark_relaxed(scores(progress), settings.model.likelihood)
    write_json("metrics/train.json", metrics | ({"epochs": progress.epoch} if cut_short else {}), durable)


if __name__ == "__main__":
    run(train_stage, shared=True)
