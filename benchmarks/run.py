"""Time the trainer against plain Pyro, bare PyTorch and the arithmetic: `python -m benchmarks.run`.

It prints five tables in Markdown and writes every single timing, with machine and versions, as JSON. What fails is
a row that says why, and makes the exit status 1.
"""

import argparse
import datetime
import multiprocessing
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch

from benchmarks import measurements, report
from benchmarks.floor import fastest_product
from benchmarks.ranks import scaling
from tools.tables import table
from vae.device import set_up
from vae.errors import InputError
from vae.files import write_json

Rows = list[measurements.Row]

RESULTS = Path("benchmarks/results")

_EPOCH = {"ms per epoch": "{ms_per_epoch:,.1f}", "images/s": "{images_per_second:,.0f}"}
_SHARE = {"share of the floor": "{share_of_floor:.0%}"}
_CASE = {"network": "{network}", "batch": "{batch_size:d}", "epoch": "{contender}"}
_RATIOS = {"speed-up over (a)": "{speed_up_over_pyro:.2f}", "time over (d)": "{time_over_bare:.2f}"}
TABLES = {
    "networks": _CASE | _EPOCH | _RATIOS | _SHARE | {"peak MB": "{peak_mb:,.0f}"},
    "growth": {"what grows": "{axis}", "to": "{value}", "images": "{images:,}"} | _EPOCH | _SHARE,
    "family": {"part": "{part}"} | _EPOCH | {"time over textbook": "{time_over_textbook:.2f}"},
    "evaluation": {
        "network": "{network}",
        "images": "{images:,}",
        "samples": "{samples:,}",
        "images x samples/s": "{draws_per_second:,.0f}",
        **_SHARE,
    },
    "ranks": {
        "network": "{network}",
        "batch": "{batch_size:d}",
        "processes": "{processes:d}",
        "threads of each": "{threads:d}",
        "images/s": "{images_per_second:,.0f}",
        "share of the ideal": "{share_of_ideal:.0%}",
        "MB sent per step": "{megabytes_per_step:.1f}",
        "least MB": "{least_megabytes:.1f}",
    },
}


def run(options: argparse.Namespace, command: str) -> bool:
    """Measure, print and write each table as soon as it is whole, and tell if nothing failed."""
    device = set_up(options.device)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    about = {"machine": report.machine(device), "versions": report.versions(device)}
    products = {precision: fastest_product(device, precision) for precision in measurements.PRECISIONS[device.type]}
    rates = {precision: product.rate for precision, product in products.items()}
    machine = ", ".join(f"{key} {value}" for key, value in (about["machine"] | about["versions"]).items() if value)
    measured = ", ".join(f"{precision} {rate / 1e9:,.0f}" for precision, rate in rates.items())
    print(f"{date}: {machine}\nmatrix rate in GFLOP/s at the start: {measured}")

    settings = {"device": device.type, "images": options.images, "rounds": options.rounds, "deterministic": True}
    output = options.output or RESULTS / report.file_name(device, date)
    results = {"date": date, "command": command, "settings": settings, **about, "matrix_flops_per_second": rates}
    for name, columns in TABLES.items():
        rows = in_own_process(measure, name, device.type, options.images, options.rounds, products, options.memory)
        results[name] = rows
        failed = [row for row in rows if "failed" in row]
        shown = columns | ({"failed": "{failed}"} if failed else {})
        print(f"\n{_note(name, rows, options, device)}\n\n{table(shown, rows)}")
        write_json(output, results)  # written now, so that a later failure loses nothing
    print(f"\nwritten: {output}")
    return not any("failed" in row for name in TABLES for row in results[name])


def measure(name: str, device: str, images: int, rounds: int, products: measurements.Products, memory: bool) -> Rows:
    """The rows of one table."""
    arguments = (set_up(device), images, rounds)
    sections = {
        "networks": partial(measurements.compare, *arguments, products, memory),
        "growth": partial(measurements.growth, *arguments, products),
        "family": partial(measurements.family, *arguments),
        "evaluation": partial(measurements.evaluation, *arguments, products),
        "ranks": partial(scaling, *arguments),
    }
    return list(sections[name]())


def in_own_process(work: Callable[..., Rows], *arguments: Any) -> Rows:
    """The rows that `work` returns, or one row that says why it failed.

    In a process of its own, as a capture that fails leaves a process that cannot draw random numbers on the GPU.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(work, *arguments).result()
        except Exception as error:  # the other tables can still be measured
            return [{"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}]


def _note(name: str, rows: list[measurements.Row], options: argparse.Namespace, device: torch.device) -> str:
    medians = f"median of {options.rounds} alternating epochs after a warm-up epoch"
    if name == "networks":
        fewer = {row["network"]: row["images"] for row in rows if row.get("images", options.images) != options.images}
        scaled = "".join(f"; {network} was timed on {n:,} images and scaled" for network, n in fewer.items())
        where = "of the device" if device.type == "cuda" else "of a process of its own"
        peak = f" Peak memory: {where}, without the data set." if options.memory else ""
        return f"An epoch of {options.images:,} images, {medians}{scaled}.{peak}"
    if name == "growth":
        return f"How the trainer's epoch grows from 784-400-50 at batch 256, float32, {medians}."
    if name == "family":
        timed = "".join({f"; timed on {row['images']:,} images and scaled" for row in rows if "images" in row})
        return f"The trainer's epoch for each part of the model family, at batch 256, {medians}{timed}."
    if name == "ranks":
        ideal = "one process with the threads of each, times their number"
        return f"Processes that share each mini-batch. The ideal: {ideal}."
    return f"Importance-sampled log-likelihood, median of {options.rounds} runs; its floor is the decoder's arithmetic."


def main(arguments: list[str]) -> int:
    """Read the command line, run, and return the exit status; Pyro's settings are left as they were found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--images", type=_count, default=60_000, help="images in an epoch (60000)")
    parser.add_argument("--rounds", type=_count, default=5, help="timings of each contender (5)")
    parser.add_argument("--output", type=Path, help="the JSON file (benchmarks/results/DEVICE-DATE.json)")
    parser.add_argument(
        "--no-memory", dest="memory", action="store_false", help="no peak memory; on a CPU that takes extra processes"
    )
    options = parser.parse_args(arguments)
    try:
        with pyro.settings.context(**pyro.settings.get()):
            return 0 if run(options, shlex.join(["python", "-m", "benchmarks.run", *arguments])) else 1
    except InputError as error:
        parser.error(str(error))


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
