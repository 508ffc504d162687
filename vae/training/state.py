"""Saving and restoring the whole state of a run: tensors, progress and random state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae import ranks
from vae.training import checkpoints
from vae.training.data import Data
from vae.training.progress import Progress, columns
from vae.training.step import Step


def save(step: Step, progress: Progress, folder: Path) -> None:
    """Write the state, which is the same on all ranks, to `folder`; the first rank does."""
    if ranks.rank() > 0:
        return
    state = {"progress": vars(progress), "tensors": step.tensors(), "random": torch.get_rng_state()}
    if step.device.type == "cuda":
        state["cuda_random"] = torch.cuda.get_rng_state(step.device)
    checkpoints.write(folder, state)


def resume(step: Step, data: Data, folder: Path) -> Progress | None:
    """Restore the state in `folder` and return its progress; None if there is none, or if it is beyond the last epoch.

    A state is checked as a whole before any of it is used. One that this run cannot have written is set aside.
    """
    state = ranks.from_first(lambda: checkpoints.read(folder, lambda found: check(found, step, data)))
    if state is None:
        return None
    progress = Progress(**state["progress"])
    if (progress.epoch, progress.batch) > (step.settings.epochs, 0):
        return None
    step.restore(state["tensors"])
    torch.set_rng_state(state["random"])
    if "cuda_random" in state:
        torch.cuda.set_rng_state(state["cuda_random"], step.device)
    if ranks.rank() == 0:
        where = f"after epoch {progress.epoch} and {progress.batch} steps of the next"
        print(f"resuming from checkpoint: {where}", flush=True)
    return progress


def check(state: Any, step: Step, data: Data) -> None:
    """Raise an exception of any type unless `save` may have written this state for this step and data."""
    progress, tensors = Progress(**state["progress"]), state["tensors"]
    _check_tensors("tensors", tensors, step.tensors())
    _check_progress(progress, step, data)
    steps = len(step.losses)
    # The count of an epoch's steps is reset when the next one begins.
    batch = progress.batch or (steps if progress.epoch else 0)
    _require(tensors["counters"].tolist() == [progress.epoch * steps + progress.batch, batch], "counters")
    _require(torch.equal(tensors["order"].sort().values, torch.arange(len(step.images))), "order")
    devices = {"random": "cpu"} | ({"cuda_random": "cuda"} if step.device.type == "cuda" else {})
    _require(state.keys() == {"progress", "tensors", *devices}, "keys")
    for name, device in devices.items():
        torch.Generator(device).set_state(state[name])


def _check_progress(progress: Progress, step: Step, data: Data) -> None:
    epochs = range(1, progress.epoch + 1)
    _require(type(progress.epoch) is type(progress.batch) is type(progress.best_epoch) is int, "progress")
    _require(progress.epoch >= 0 and 0 <= progress.batch <= len(step.losses), "progress")
    names = {"epoch", "learning_rate", *columns("train", 0, 0)}
    if data.validation is not None:
        bound = {"validation_bound"} if step.settings.objective != "elbo" else set()
        names |= {*columns("validation", 0, 0)} | bound
    _require([row["epoch"] for row in progress.history] == list(epochs), "history")
    _require(all(row.keys() == names for row in progress.history), "history")
    _require(all(abs(value) < float("inf") for row in progress.history for value in row.values()), "history")
    _require(progress.best_epoch in epochs if progress.epoch else progress.best_epoch == 0, "best epoch")
    known = {"train_elbo", "validation_elbo"} & names if progress.epoch else set()
    _require(progress.errors.keys() <= known, "errors")
    _require(all(0 <= value < float("inf") for value in progress.errors.values()), "errors")
    best = step.model.state_dict() if progress.epoch else {}
    _check_tensors("best weights", progress.best, best)
    taken = [epoch for epoch in sorted(set(step.settings.snapshot_epochs)) if epoch in epochs]
    _check_tensors("snapshots", progress.snapshots, dict.fromkeys(taken, data.showcase.images.float()))


def _check_tensors(what: str, found: Mapping[Any, Tensor], expected: Mapping[Any, Tensor]) -> None:
    _require(found.keys() == expected.keys(), what)
    for name, tensor in expected.items():
        given = found[name]
        same = given.dtype == tensor.dtype and given.shape == tensor.shape
        # The square of a large gradient may overflow, which only stops that weight.
        finite = (given >= 0).all() if str(name).startswith("square_means") else given.isfinite().all()
        _require(bool(same and finite), f"{what} ({name})")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(f"not a state of this run: {what}")
