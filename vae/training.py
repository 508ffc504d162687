"""The training loop: epochs of captured or eager steps, validation, the best epoch, exact resumption."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vae import checkpoint
from vae.distributions.priors import VampPrior
from vae.errors import InputError, Interrupted, WorkError
from vae.model import VAE
from vae.objectives import elbo_terms
from vae.preparation import Split, pixels
from vae.settings import Train
from vae.step import Step

_VALIDATION_BATCH = 1000
_LOG_LINES = 20  # printed in a whole run, where there is no terminal for a progress bar


@dataclass
class Progress:
    """What a run has come to besides the tensors of its step; part of every checkpoint.

    `epoch` counts finished epochs and `batch` the finished steps of the next one; `best` holds the best epoch's
    weights; `snapshots` maps an epoch to the showcase's mean reconstructions after it, float32 (m, height, width).
    """

    epoch: int = 0
    batch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    snapshots: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """What training sees of each split: images, uint8 of shape (n, height, width), 255 standing for 1, and labels.

    `draw` tells whether each mini-batch draws its pixels afresh from the training images' intensities; `validation`
    may be None; `showcase` holds the few images whose reconstructions are kept after chosen epochs. Labels, int64
    of shape (n,), reach only a conditional model.
    """

    train: Split
    validation: Split | None
    showcase: Split
    draw: bool

    def to(self, device: torch.device) -> "Data":
        """The same on a device, where all of it stays during training."""
        splits = [split and {name: values.to(device) for name, values in split.items()} for split in self.splits]
        return Data(*splits, self.draw)

    @property
    def splits(self) -> tuple[Split, Split | None, Split]:
        """Training, validation and showcase."""
        return self.train, self.validation, self.showcase


@torch.no_grad()
def initialize(model: VAE, images: Tensor) -> None:
    """Start from training images, uint8 (n, height, width): the decoder at their mean, a VampPrior at some of them."""
    intensities = pixels(images, draw=False)
    model.decoder.bias.copy_(model.likelihood.initial_output(intensities))
    if isinstance(model.prior, VampPrior):
        components = len(model.prior.logits)
        model.prior.initialize(intensities[torch.randperm(len(images))[:components]])


def train(model: VAE, data: Data, settings: Train, checkpoints: Path | None = None) -> Progress:
    """Train `model` in place, on the device that it is on, and leave the best epoch's weights in it.

    Without a validation split the best epoch is the last one. With a folder for `checkpoints` a state found there
    is taken up, and the run ends with the same bytes as one that was never interrupted.

    Raises:
        WorkError: the loss is not finite; the message names epoch and step.
        Interrupted: SIGINT or SIGTERM came; the state was saved first.
    """
    device = next(model.parameters()).device
    data = data.to(device)
    if settings.step == "graph" and device.type != "cuda":
        raise InputError(f"params.yaml: train.step: got 'graph', allowed on {device.type}: auto, eager")
    with _matrix_precision(settings), _signals() as received:
        step = Step(model, data.train["images"], data.draw, settings, data.train["labels"])
        progress = _take_up(step, settings, checkpoints) or Progress()
        sizes = [settings.batch_size] * (len(step.images) // settings.batch_size)
        sizes += [rest] if (rest := len(step.images) % settings.batch_size) else []
        bar = tqdm(
            total=settings.epochs * len(sizes),
            initial=progress.epoch * len(sizes) + progress.batch,
            unit="step",
            disable=None,
            dynamic_ncols=True,
        )
        while progress.epoch < settings.epochs and not _out_of_patience(progress, settings):
            if progress.batch == 0:
                step.begin_epoch()
            for size in sizes[progress.batch :]:
                step(size)
                progress.batch += 1
                bar.update()
                if received:
                    _stop(step, progress, checkpoints, received[0])
            _finish_epoch(step, progress, data, settings, len(sizes))
            _report(bar, progress, settings)
            if checkpoints and progress.epoch % settings.checkpoint_every == 0:
                _save(step, progress, checkpoints)
        bar.close()
        if checkpoints and settings.keep_checkpoint:
            _save(step, progress, checkpoints)
        model.load_state_dict(progress.best)
        _take_last_snapshot(model, progress, data)
    return progress


@torch.no_grad()
def mean_terms(model: VAE, split: Split, seed: int) -> tuple[float, float]:
    """Mean log-likelihood and KL of a split's images, one draw of z each, nats an image.

    The draws depend on the seed alone, and the callers' random numbers go on as if nothing had been drawn.
    """
    images, labels = split["images"], split["labels"]
    devices = [images.device] if images.device.type == "cuda" else []
    totals = torch.zeros(2, dtype=torch.float64, device=images.device)
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for batch, classes in zip(images.split(_VALIDATION_BATCH), labels.split(_VALIDATION_BATCH), strict=True):
            terms = elbo_terms(model.model, model.guide, pixels(batch, draw=False), classes)
            totals += torch.stack([terms.log_likelihood.sum(), terms.kl.sum()])
    log_likelihood, kl = (totals / len(images)).tolist()
    return log_likelihood, kl


def _finish_epoch(step: Step, progress: Progress, data: Data, settings: Train, steps: int) -> None:
    failed = (~step.losses.isfinite()).nonzero()
    if len(failed):
        raise _diverged(
            f"the loss is not finite at epoch {progress.epoch + 1}, step {failed[0].item() + 1} of {steps}", settings
        )
    if not all(parameter.isfinite().all() for parameter in step.parameters):
        raise _diverged(f"the weights are not finite after epoch {progress.epoch + 1}", settings)
    progress.epoch, progress.batch = progress.epoch + 1, 0
    log_likelihood, kl = (step.totals / len(step.images)).tolist()
    row = {"epoch": progress.epoch} | _columns("train", log_likelihood, kl)
    with _averaged(step):
        if data.validation is not None:
            row |= _columns("validation", *mean_terms(step.model, data.validation, settings.seed))
            if not math.isfinite(row["validation_elbo"]):
                raise _diverged(f"the validation ELBO is not finite after epoch {progress.epoch}", settings)
        if progress.epoch in settings.snapshot_epochs:
            progress.snapshots[progress.epoch] = _reconstruct(step.model, data.showcase)
        best = max((old["validation_elbo"] for old in progress.history if "validation_elbo" in old), default=-math.inf)
        if row.get("validation_elbo", math.inf) > best:
            progress.best_epoch = progress.epoch
            progress.best = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    row["learning_rate"] = step.rate.item()
    progress.history.append(row)


def _diverged(what: str, settings: Train) -> WorkError:
    return WorkError(
        f"{what}: lower train.learning_rate (now {settings.learning_rate:g}) "
        f"or set train.gradient_clip (now {settings.gradient_clip:g}; try 10)"
    )


def _columns(split: str, log_likelihood: float, kl: float) -> dict[str, float]:
    values = {"elbo": log_likelihood - kl, "reconstruction_nll": -log_likelihood, "kl": kl}
    return {f"{split}_{name}": round(value, 4) for name, value in values.items()}


def _out_of_patience(progress: Progress, settings: Train) -> bool:
    return 0 < settings.patience <= progress.epoch - progress.best_epoch


@torch.no_grad()
def _reconstruct(model: VAE, split: Split) -> Tensor:
    return model.reconstruct(pixels(split["images"], draw=False), split["labels"]).cpu()


def _take_last_snapshot(model: VAE, progress: Progress, data: Data) -> None:
    # After the best epoch the weights that were kept did not change any more.
    earlier = {epoch: images for epoch, images in sorted(progress.snapshots.items()) if epoch < progress.best_epoch}
    progress.snapshots = earlier | {progress.best_epoch: _reconstruct(model, data.showcase)}


@contextmanager
def _averaged(step: Step) -> Iterator[None]:
    """Let the weights' moving average stand in for the weights, if there is one."""
    if not step.average:
        yield
        return
    with torch.no_grad():
        trained = [parameter.clone() for parameter in step.parameters]
        torch._foreach_copy_(step.parameters, step.average)
        try:
            yield
        finally:
            torch._foreach_copy_(step.parameters, trained)


@contextmanager
def _matrix_precision(settings: Train) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = settings.precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _report(bar: Any, progress: Progress, settings: Train) -> None:
    row = progress.history[-1]
    shown = {"ELBO": f"{row['train_elbo']:.2f}"}
    if "validation_elbo" in row:
        shown["validation"] = f"{row['validation_elbo']:.2f}"
    bar.set_description(f"epoch {progress.epoch}/{settings.epochs}", refresh=False)
    bar.set_postfix(shown)
    if bar.disable and (
        progress.epoch % math.ceil(settings.epochs / _LOG_LINES) == 0 or progress.epoch == settings.epochs
    ):
        print(
            f"epoch {progress.epoch}/{settings.epochs}: " + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True
        )


def _save(step: Step, progress: Progress, folder: Path) -> None:
    state = {"progress": vars(progress), "tensors": step.tensors(), "random": torch.get_rng_state()}
    if step.images.device.type == "cuda":
        state["cuda_random"] = torch.cuda.get_rng_state(step.images.device)
    checkpoint.write(folder, state)


def _take_up(step: Step, settings: Train, folder: Path | None) -> Progress | None:
    state = checkpoint.read(folder) if folder else None
    if state is None:
        return None
    progress = Progress(**state["progress"])
    if (progress.epoch, progress.batch) > (settings.epochs, 0):
        return None
    step.restore(state["tensors"])
    torch.set_rng_state(state["random"])
    if "cuda_random" in state:
        torch.cuda.set_rng_state(state["cuda_random"], step.images.device)
    print(f"goes on from a checkpoint: {progress.epoch} epochs and {progress.batch} steps are done")
    return progress


def _stop(step: Step, progress: Progress, folder: Path | None, received: int) -> None:
    where = f"stopped by {signal.Signals(received).name} in epoch {progress.epoch + 1}, after step {progress.batch}"
    if folder:
        _save(step, progress, folder)
        where += "; the state is saved, `dvc repro` goes on from there"
    raise Interrupted(received, where)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them in the middle of a step."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda caught, _: received.append(caught)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
