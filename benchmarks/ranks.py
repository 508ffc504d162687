"""How the trainer's speed grows with the number of processes that share a mini-batch.

Each measurement is a launch of its own, as a person's would be: `python -m benchmarks.ranks` is one process of it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch

from benchmarks.floor import wait
from benchmarks.measurements import NETWORKS, ROOT, SHAPE, Row, made_up_images, noted, training
from vae import ranks
from vae.device import set_up
from vae.errors import WorkError
from vae.model import make_model
from vae.training.step import Step

_NETWORKS = ("784-400-50", "784-1024-1024-64")
_MOST_ROUNDS = 3
_SECONDS = 600  # for one launch
_LOOPBACK = Path("/proc/net/dev")


class Case(NamedTuple):
    """A number of processes, and how many threads each of them may use (0: all that its share of the cores has)."""

    processes: int
    threads: int = 0


def scaling(device: torch.device, images: int, rounds: int) -> Iterator[Row]:
    """One process with all of the machine, one with a share of it, and as many as there are shares.

    The ideal is the speed of the one with a share, times the number of shares: two halves of the cores on a CPU, or
    every GPU. `megabytes_per_step` are what all ranks send over the loopback device (None if they do not use it), and
    `least_megabytes` what a sum over ranks has to send.
    """
    shares = torch.cuda.device_count() if device.type == "cuda" else 2
    threads = max(torch.get_num_threads() // shares, 1) if device.type == "cpu" else 0
    cases = dict.fromkeys([Case(1), Case(1, threads), Case(shares, threads)])
    for name in _NETWORKS:
        network = NETWORKS[name]
        n = max(images // (4 * network.cpu_divisor), 1) if device.type == "cpu" else images
        found: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
        failed: dict[str, str] = {}
        for case in [case for _ in range(min(rounds, _MOST_ROUNDS)) for case in cases]:
            with noted(failed, name):
                found[case].append(_launch(case, name, n, device))
        if failed:
            yield {"network": name, "batch_size": network.batch_size, "failed": failed[name]}
            continue
        seconds = {case: [each["seconds"] for each in launches] for case, launches in found.items()}
        for case, launches in found.items():
            ratios = [own / other for own, other in zip(seconds[Case(1, threads)], seconds[case], strict=True)]
            yield {
                "network": name,
                "batch_size": network.batch_size,
                "processes": case.processes,
                "threads": launches[0]["threads"],
                "images_per_second": n / statistics.median(seconds[case]),
                "share_of_ideal": statistics.median(ratios) / shares,
                "megabytes_per_step": launches[0]["megabytes_per_step"],
                "least_megabytes": launches[0]["least_megabytes"],
                "seconds": seconds[case],
            }


def _launch(case: Case, name: str, images: int, device: torch.device) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "timing.json"
        several = ["--standalone", f"--nproc-per-node={case.processes}", f"--log-dir={folder}"]
        launcher = ["-m", "torch.distributed.run", *several]
        command = ["-m", "benchmarks.ranks", name, str(images), device.type, str(output)]
        environment = os.environ | ({"OMP_NUM_THREADS": str(case.threads)} if case.threads else {})
        arguments = [sys.executable, *(launcher if case.processes > 1 else []), *command]
        run = subprocess.run(
            arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if run.returncode:
            raise WorkError(f"{case.processes} processes: {(run.stderr.strip().splitlines() or ['failed'])[-1]}")
        return json.loads(output.read_text())


def one_process(name: str, images: int, kind: str, output: str) -> None:
    """Time an epoch after a warm-up epoch; the first rank writes what it took."""
    with ranks.joined():
        device, network = set_up(kind), NETWORKS[name]
        settings = training(network.batch_size, rounds=1)
        settings = settings.model_copy(update={"step": "graph" if device.type == "cuda" else "recorded"})
        pyro.set_rng_seed(0)
        model = make_model(network.model, SHAPE, classes=10).to(device)
        step = Step(model, made_up_images(images, device), True, settings)
        sizes = [min(network.batch_size, images - start) for start in range(0, images, network.batch_size)]
        for _ in range(2):
            step.begin_epoch()
            wait(device)
            ranks.any_of(False)
            sent, start = _sent(), time.perf_counter()
            for size in sizes:
                step(size)
            wait(device)
            seconds = time.perf_counter() - start
        moved = None if sent is None or device.type == "cuda" else (_sent() - sent) / len(sizes) / 1e6
        numbers = sum(parameter.numel() for parameter in model.parameters())
        if ranks.rank() == 0:
            timing = {
                "seconds": seconds,
                "threads": torch.get_num_threads(),
                "megabytes_per_step": moved,
                "least_megabytes": 2 * (ranks.count() - 1) * 4 * numbers / 1e6,
            }
            Path(output).write_text(json.dumps(timing))


def _sent() -> int | None:
    """The bytes sent over the loopback device since the system started, or None where Linux's counters are missing."""
    if not _LOOPBACK.exists():
        return None
    (counters,) = [line for line in _LOOPBACK.read_text().splitlines() if line.strip().startswith("lo:")]
    return int(counters.split(":")[1].split()[8])


if __name__ == "__main__":
    one_process(sys.argv[1], int(sys.argv[2]), *sys.argv[3:5])
