"""The training loop: epochs of captured or eager steps, checkpoints between them, exact resumption."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vae import ranks
from vae.device import matrix_precision
from vae.errors import Interrupted, LostRank, SettingError
from vae.model import VAE
from vae.settings import Train
from vae.training import signals
from vae.training.data import Data
from vae.training.epoch import finish, finite_means, take_last_snapshot
from vae.training.progress import Progress, make_bar, report
from vae.training.state import resume, save
from vae.training.step import Step
from vae.training.supply import placed


def train(
    model: VAE,
    data: Data,
    settings: Train,
    checkpoints: Path | None = None,
    after_epoch: Callable[[Progress], None] = lambda progress: None,
    finish_now: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train `model` in place on its device, and leave it in evaluation mode with the kept epoch's weights.

    By default that is the best epoch: it has the best validation ELBO, or with the objectives `iwae` and `dreg` the
    best validation bound, after the KL warm-up; without a validation split it is the last one. With a folder for
    `checkpoints` the run resumes from a state found there, and its results are identical to those of an uninterrupted
    run.

    `after_epoch` is called with the progress after each epoch, and once when a run resumes. `finish_now` is asked
    before each further epoch: if it says yes the run ends there, its state saved so that it can be continued.

    Raises:
        SettingError: `train.step` is `graph`, which the device does not support.
        WorkError: a loss or a weight is not finite, with epoch and step in the message; or `train.step` is `graph`
            and the model's step cannot be captured.
        Interrupted: on SIGINT or SIGTERM; with `checkpoints`, after saving the state.
    """
    device = next(model.parameters()).device
    model.train()
    if settings.step == "graph" and device.type != "cuda":
        raise SettingError("train.step", f"got 'graph', allowed on {device.type}: auto, eager")
    settings = placed(settings, data.train.images, device)
    data = data.to(device, streamed=settings.images == "streamed")
    with matrix_precision(settings.precision), signals.collected() as received:
        step = Step(model, data.train.images, data.binarize, settings, data.train.labels)
        progress = (resume(step, data, checkpoints) if checkpoints else None) or Progress()
        if progress.epoch:
            after_epoch(progress)
        with _silent_if_stopped(received), make_bar(progress, settings.epochs, len(step.losses)) as bar:
            while progress.epoch < settings.epochs and not _out_of_patience(progress, settings):
                if progress.batch == 0:
                    if progress.epoch and finish_now():
                        if checkpoints:
                            save(step, progress, checkpoints)
                        break
                    step.begin_epoch()
                for done in step.steps(progress.batch):
                    bar.update(done - progress.batch)
                    progress.batch = done
                    if not step.seems_finite(progress.batch):
                        finite_means(step, progress, settings)  # raises, and says where
                    if step.must_stop(bool(received), progress.batch):
                        _stop(step, progress, settings, checkpoints, (*received, signal.SIGTERM)[0])
                finish(step, progress, data, settings)
                report(bar, progress, settings.epochs)
                after_epoch(progress)
                if checkpoints and progress.epoch % settings.checkpoint_every == 0:
                    save(step, progress, checkpoints)
        if checkpoints and settings.keep_checkpoint:
            save(step, progress, checkpoints)
        model.load_state_dict(progress.best)
        model.eval()
        take_last_snapshot(model, progress, data)
    return progress


@contextmanager
def _silent_if_stopped(received: list[int]) -> Iterator[None]:
    """Take other ranks that are lost for a stop, if this one was asked to stop, too: whoever asked says why."""
    try:
        yield
    except LostRank as error:
        if received:
            raise Interrupted(received[0], "") from error
        raise


def _out_of_patience(progress: Progress, settings: Train) -> bool:
    return 0 < settings.patience <= progress.epoch - max(progress.best_epoch, settings.kl_warmup_epochs)


def _stop(step: Step, progress: Progress, settings: Train, folder: Path | None, received: int) -> None:
    finite_means(step, progress, settings)  # raises if training has diverged: the last good state stays
    where = f"stopped by {signal.Signals(received).name} in epoch {progress.epoch + 1}, after step {progress.batch}"
    if folder:
        save(step, progress, folder)
        where += "; the state is saved, and the next run resumes from it"
    # Other ranks cannot know whether the first one has saved it.
    raise Interrupted(received, "" if ranks.rank() else where)
