"""Where the time of an epoch goes, with the settings in params.yaml: `python -m benchmarks.profile`.

It prints the ten most expensive operations and writes a trace that a person can open.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.contenders import trainer_eager, trainer_graph
from benchmarks.measurements import SHAPE, Row, made_up_images
from tools.tables import table
from vae.data.splits import read_split
from vae.device import matrix_precision, set_up
from vae.errors import InputError
from vae.model import make_model
from vae.settings import Settings, load_settings

TRACE = Path("benchmarks/results/trace.json")
PREPARED = Path("data/prepared/train.safetensors")
STEPS = 20  # enough for a mean, few enough for a trace that opens at once
COLUMNS = {"operation": "{name}", "self time, ms": "{ms:.2f}", "share": "{share:.1%}", "calls": "{calls:,}"}


def profile_epoch(settings: Settings, images: Tensor, trace: Path) -> list[Row]:
    """Profile an epoch over uint8 images (n, c, h, w), write its trace, and list operations in order of cost.

    Times are the processor's, on CUDA the GPU's, without those of the operations called inside.
    """
    on_gpu = images.device.type == "cuda"
    captured = on_gpu and settings.train.step != "eager"
    model = make_model(settings.model, tuple(images.shape[1:]), classes=10).to(images.device)
    schedule = settings.train.model_copy(update={"epochs": 2})  # one to warm up
    with matrix_precision(settings.train.precision):
        epoch = (trainer_graph if captured else trainer_eager)(model, images, schedule)
        epoch()
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as profiler:
            epoch()
    trace.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(trace))
    return _operations(profiler, on_gpu)


def _operations(profiler: Any, on_gpu: bool) -> list[Row]:
    device, time = (DeviceType.CUDA, "self_device_time_total") if on_gpu else (DeviceType.CPU, "self_cpu_time_total")
    events = [event for event in profiler.key_averages() if event.device_type == device]
    total = sum(getattr(event, time) for event in events)
    rows = [
        {"name": event.key, "ms": (spent := getattr(event, time)) / 1000, "share": spent / total, "calls": event.count}
        for event in events
    ]
    return sorted(rows, key=lambda row: -row["ms"])


def _images(settings: Settings, device: torch.device) -> tuple[Tensor, str]:
    n = STEPS * settings.train.batch_size
    if PREPARED.exists():
        return read_split(PREPARED)[0].images[:n].to(device), str(PREPARED)
    shape = (1, 8, 8) if settings.download.dataset == "digits" else SHAPE
    return made_up_images(n, device, shape), f"made up, as {PREPARED} is missing"


def main(arguments: list[str]) -> None:
    """Read the command line, profile, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=TRACE, help=f"the trace ({TRACE})")
    options = parser.parse_args(arguments)
    try:
        with pyro.settings.context(**pyro.settings.get()):
            settings = load_settings("params.yaml")
            images, source = _images(settings, set_up(settings.train.device))
            rows = profile_epoch(settings, images, options.output)
    except InputError as error:
        parser.error(str(error))
    batch, device = settings.train.batch_size, images.device.type
    print(f"An epoch of {len(images):,} images ({source}) at batch {batch} on {device}; the ten most expensive:\n")
    print(table(COLUMNS, rows[:10]))
    print(f"\nwritten: {options.output}; open it at https://ui.perfetto.dev or in Chrome at chrome://tracing")


if __name__ == "__main__":
    main(sys.argv[1:])
