"""The progress of a run: its history, its best epoch, and its progress bar."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from tqdm import tqdm

from vae import ranks

_LOG_LINES = 20  # printed per run if there is no terminal for a progress bar


@dataclass
class Progress:
    """The state of a run apart from the tensors of its step; part of every checkpoint.

    `epoch` counts finished epochs and `batch` the finished steps of the next one; `best` holds the best epoch's
    weights, and `errors` the standard errors of the ELBOs in its row of the history, by column, as far as they are
    known; `snapshots` maps an epoch to the showcase's mean reconstructions after it, float32, shaped like the images.
    """

    epoch: int = 0
    batch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    snapshots: dict[int, Tensor] = field(default_factory=dict)


def columns(split: str, log_likelihood: float, kl: float) -> dict[str, float]:
    """A split's columns of the history: ELBO, distortion and rate, in nats per image."""
    values = {"elbo": log_likelihood - kl, "reconstruction_nll": -log_likelihood, "kl": kl}
    return {f"{split}_{name}": round(value, 4) for name, value in values.items()}


def scores(progress: Progress) -> dict[str, float]:
    """The ELBOs of the best epoch, each with its standard error as `X_stderr` where that is known, and the epoch."""
    best, found = progress.history[progress.best_epoch - 1], {}
    for name in ("train_elbo", "validation_elbo"):
        if name in best:
            found[name] = best[name]
        if name in progress.errors:
            found[f"{name}_stderr"] = round(progress.errors[name], 4)
    return found | {"best_epoch": progress.best_epoch}


def is_best(row: dict[str, float], best: dict[str, float] | None, warmup_epochs: int) -> bool:
    """Whether an epoch's weights should be kept rather than those of the best earlier one, None before the first.

    Judged by the bound that is trained: `validation_bound` where the history has it, else the ELBO. While the KL's
    weight rises the ELBO falls by construction, so that an epoch after the warm-up replaces every one within it.
    Without validation the last epoch is the best.
    """
    if best is None or "validation_elbo" not in row or best["epoch"] <= warmup_epochs < row["epoch"]:
        return True
    judge = "validation_bound" if "validation_bound" in row else "validation_elbo"
    return row[judge] > best[judge]


def make_bar(progress: Progress, epochs: int, steps: int) -> Any:
    """A progress bar over all steps of a run, `steps` per epoch; shown only in a terminal."""
    done = progress.epoch * steps + progress.batch
    return tqdm(total=epochs * steps, initial=done, unit="step", disable=ranks.rank() > 0 or None, dynamic_ncols=True)


def report(bar: Any, progress: Progress, epochs: int) -> None:
    """Show the last epoch's ELBO on the bar, or if there is none, print it after every twentieth of the run."""
    row = progress.history[-1]
    shown = {"ELBO": f"{row['train_elbo']:.2f}"}
    if "validation_elbo" in row:
        shown["validation"] = f"{row['validation_elbo']:.2f}"
    bar.set_description(f"epoch {progress.epoch}/{epochs}", refresh=False)
    bar.set_postfix(shown)
    due = progress.epoch % math.ceil(epochs / _LOG_LINES) == 0 or progress.epoch == epochs
    if bar.disable and due and ranks.rank() == 0:
        print(f"epoch {progress.epoch}/{epochs}: {', '.join(f'{k} {v}' for k, v in shown.items())}", flush=True)
