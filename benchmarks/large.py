"""Train on a data set that is many times MNIST, from wherever its images lie: `python -m benchmarks.large`.

The training split is that of data/raw, copied by shifts of whole pixels and written in bounded memory. Each run is a
process of its own, which does what the training stage does before its first step, then times some steps of the
784-400-50 network, whose steps are so short that images are easily late. Cold means that no image is in the operating
system's cache when the steps begin. Exit status 1 means that the runs did not end with the same weights.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.floor import wait
from benchmarks.measurements import NETWORKS, training
from tools.tables import table
from vae.data.images import Split
from vae.data.splits import read_split
from vae.device import set_up
from vae.errors import InputError
from vae.files import replacing
from vae.model import make_model
from vae.sources.datasets import class_names, read
from vae.training.checkpoints import digest
from vae.training.initialization import initialize
from vae.training.step import Step

NETWORK, WARM_UP = NETWORKS["784-400-50"], 20  # steps
WAYS = ("resident", "streamed")
STATUS = Path("/proc/self/status")
COLUMNS = {
    "images": "{way}",
    "cache": "{cache}",
    "images/s": "{rate:,.0f}",
    "slowest run": "{slowest:,.0f}",
    "MB before the file is read": "{before:,.0f}",
    "MB at the peak": "{peak:,.0f}",
}


def shifted(images: Tensor, copies: int) -> Iterator[Tensor]:
    """Copies of images (n, c, h, w), each shifted by other numbers of pixels, the nearest first; black moves in."""
    reach = math.ceil((math.sqrt(copies) - 1) / 2)
    steps = range(-reach, reach + 1)
    nearest = sorted(((x, y) for x in steps for y in steps), key=lambda shift: (max(map(abs, shift)), shift))
    for x, y in nearest[:copies]:
        yield F.pad(images, (x, -x, y, -y))


def write_copies(path: Path, split: Split, copies: int, metadata: dict[str, Any]) -> None:
    """Write a split of shifted copies as `write_split` would, one copy in memory at a time."""
    count = copies * len(split)
    shapes = {"labels": ("I64", [count]), "images": ("U8", [count, *split.images.shape[1:]])}
    header, end = {"__metadata__": {"json": json.dumps(metadata)}}, 0
    for name, (dtype, shape) in shapes.items():
        start, end = end, end + math.prod(shape) * {"I64": 8, "U8": 1}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(copies):
            file.write(split.labels.numpy().data)
        for images in shifted(split.images, copies):
            file.write(images.contiguous().numpy().data)


def measure(path: Path, way: str, cold: bool, steps: int) -> dict[str, Any]:
    """Train for some steps: images per second, anonymous memory in MB before and at its peak, the weights' digest."""
    device = set_up("auto")
    before = anonymous_memory()
    with peak_memory() as peak:
        split, metadata = read_split(path)
        digest(split.images, split.labels)
        torch.manual_seed(0)
        model = make_model(NETWORK.model, tuple(split.images.shape[1:]), len(metadata["classes"]))
        how = "graph" if device.type == "cuda" else "recorded"
        settings = training(NETWORK.batch_size, rounds=0).model_copy(update={"images": way, "step": how})
        initialize(model, split.images, settings)
        if cold:
            del split  # pages that are mapped stay in the cache
            drop_from_cache(path)
            split, _ = read_split(path)
        images = split.images if way == "streamed" else split.images.to(device)
        step = Step(model.to(device), images, True, settings)
        step.begin_epoch()
        for _ in range(WARM_UP):
            step(NETWORK.batch_size)
        wait(device)
        start = time.perf_counter()
        for _ in range(steps):
            step(NETWORK.batch_size)
        wait(device)
        seconds = time.perf_counter() - start
    weights = digest(*(tensor.cpu() for tensor in model.state_dict().values()))
    return {"rate": steps * NETWORK.batch_size / seconds, "before": before, "peak": peak[0], "weights": weights}


def drop_from_cache(path: Path) -> None:
    """Have the operating system forget a file's contents."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def anonymous_memory() -> float:
    """The memory of this process in MB, without the pages of files, which the system takes back when it needs them."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Give a list whose one value grows to the most anonymous memory that the block has, looked at every 10 ms."""
    peak, ended = [anonymous_memory()], threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def in_own_process(*arguments: Any) -> dict[str, Any]:
    """What `measure` finds in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(measure, *arguments).result()


def main(arguments: list[str]) -> int:
    """Read the command line, run, print the table and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__.split("\n\n")[0])
    parser.add_argument("--copies", type=int, default=100, help="shifted copies of each training image (100)")
    parser.add_argument("--steps", type=int, default=500, help="steps that are timed (500)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, which take turns (3)")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="where MNIST's files are (data/raw)")
    parser.add_argument("--folder", type=Path, help="where the large file is written and removed (a temporary one)")
    options = parser.parse_args(arguments)
    try:
        images, labels = (torch.from_numpy(array) for array in read("mnist", options.raw)["train"])
    except InputError as error:
        parser.error(str(error))
    if NETWORK.batch_size * (WARM_UP + options.steps) > options.copies * len(images):
        parser.error(f"--steps: {WARM_UP + options.steps} steps need more than {options.copies * len(images):,} images")
    metadata = {"dataset": "mnist", "binarization": "dynamic", "classes": class_names("mnist")}
    kinds = [(way, cold) for cold in (False, True) for way in WAYS]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "train.safetensors"
        write_copies(path, Split(images, labels.long()), options.copies, metadata)
        print(f"{options.copies * len(images):,} images, {path.stat().st_size / 1e9:.2f} GB", flush=True)
        runs = [(kind, in_own_process(path, *kind, options.steps)) for _ in range(options.rounds) for kind in kinds]
    rows = [_summary(*kind, [run for own, run in runs if own == kind]) for kind in kinds]
    print(table(COLUMNS, rows))
    same = len({run["weights"] for _, run in runs}) == 1
    print(f"all {len(runs)} runs end with {'the same weights' if same else 'DIFFERENT WEIGHTS'}")
    return 0 if same else 1


def _summary(way: str, cold: bool, runs: list[dict[str, Any]]) -> dict[str, Any]:
    rates = [run["rate"] for run in runs]
    return {
        "way": way,
        "cache": "cold" if cold else "warm",
        "rate": statistics.median(rates),
        "slowest": min(rates),
        "before": max(run["before"] for run in runs),
        "peak": max(run["peak"] for run in runs),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
