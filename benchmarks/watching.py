"""What an epoch costs to be watched, with the settings in params.yaml: `python -m benchmarks.watching`.

The history has a row for each epoch that is asked for, so the files are as long as they get.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

from benchmarks.contenders import trainer_eager
from benchmarks.measurements import SHAPE, made_up_images
from stages.train import HISTORY, write_progress
from tools.tables import table
from vae.device import set_up
from vae.model import make_model
from vae.settings import Settings, load_settings
from vae.training.progress import Progress
from vae.training.tensorboard import Curves

COLUMNS = {"what": "{what}", "ms": "{ms:.2f}", "share of an epoch": "{share:.3%}"}
IMAGES, REPEATS = 55_000, 50


def measure(settings: Settings) -> list[dict[str, float | str]]:
    """The median times of the live files and of TensorBoard's curves after the last epoch, and one epoch's time."""
    device = set_up(settings.train.device)
    epoch = trainer_eager(
        make_model(settings.model, SHAPE, 10).to(device), made_up_images(IMAGES, device), settings.train
    )
    rows = [{"epoch": number, **dict.fromkeys(HISTORY[1:], -88.1234)} for number in range(1, settings.train.epochs + 1)]
    progress = Progress(epoch=len(rows), history=rows, best_epoch=len(rows))
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        curves = Curves(Path("curves"))
        curves.write(rows)

        def add_to_curves() -> None:
            rows.append({**rows[-1], "epoch": len(rows) + 1})
            curves.write(rows)

        times = {
            "an epoch": _median(epoch, 3),
            "history.csv and train.json": _median(lambda: write_progress(progress, settings, durable=False), REPEATS),
            "TensorBoard's curves": _median(add_to_curves, REPEATS),
        }
    return [{"what": what, "ms": 1000 * spent, "share": spent / times["an epoch"]} for what, spent in times.items()]


def _median(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one warms up


if __name__ == "__main__":
    print(table(COLUMNS, measure(load_settings("params.yaml"))))
