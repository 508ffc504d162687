"""Training that shows its results while it runs, and that can be asked to end before its last epoch."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vae import ranks
from vae.model import VAE
from vae.settings import Train
from vae.training import loop, signals
from vae.training.data import Data
from vae.training.progress import Progress
from vae.training.tensorboard import Curves

_REST = 20  # times as long as writing took, until the next


def train_watched(
    model: VAE,
    data: Data,
    settings: Train,
    folder: Path,
    write: Callable[[Progress], None],
    curves: Curves | None,
    asked: Callable[[], bool],
) -> tuple[Progress, bool]:
    """Train with checkpoints in `folder` as `loop.train` does; also return whether somebody had it end early.

    After an epoch the first rank lets `write` write the results so far, and adds them to `curves`. The training ends
    there if SIGUSR1 has arrived or `asked` says so, on any rank.
    """
    cut_short, next_writing = False, 0.0

    def after_epoch(progress: Progress) -> None:
        nonlocal next_writing
        started = time.monotonic()
        if ranks.rank() > 0 or started < next_writing:
            return
        with suppress(PermissionError):  # Windows replaces no file that somebody reads; the next epoch does
            write(progress)
        if curves:
            curves.write(progress.history)
        # The whole history is written each time, which after thousands of short epochs takes longer than one of them.
        next_writing = started + _REST * (time.monotonic() - started)

    def finish_now() -> bool:
        nonlocal cut_short
        cut_short = ranks.any_of(bool(received) or asked())
        return cut_short

    with signals.collected(signals.FINISH) as received:
        progress = loop.train(model, data, settings, folder, after_epoch, finish_now)
    if curves:
        curves.write(progress.history)
    return progress, cut_short
