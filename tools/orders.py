"""Run the short experiments whose expected orders docs/results.md checks: `python -m tools.orders`.

Each runs with the training seeds 0, 1 and 2. A run that is recorded for the code as it is now is not repeated, so that
the command continues where it was interrupted. The page is written at the end.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tools import results, run
from tools.errors import reported
from vae.errors import WorkError

SEEDS = (0, 1, 2)
RAW = Path("data/raw")


def missing() -> list[tuple[str, int]]:
    """The experiments of all expected orders and their seeds that have no record of the code as it is now."""
    now, names = run.code(Path()), dict.fromkeys(name for pair in results.ORDERS for name in pair)
    return [(name, seed) for seed in SEEDS for name in names if _code(run.record_path(name, seed)) != now]


def _code(record: Path) -> dict[str, str] | None:
    return json.loads(record.read_text()).get("code") if record.exists() else None


def run_all(wanted: Sequence[tuple[str, int]], jobs: int) -> list[str]:
    """Run experiments with their seeds, `jobs` at a time, each in one of as many folders; returns those that failed."""
    folders: SimpleQueue[str] = SimpleQueue()
    for number in range(jobs):
        folders.put(f".runs/orders-{number}")
    threads = max((os.cpu_count() or 1) // jobs, 1)
    # The published files are downloaded once, where the project has them.
    mirror = {"MNIST_MIRROR": str(RAW.resolve())} if RAW.exists() else {}
    environment = {"OMP_NUM_THREADS": str(threads), **mirror, **os.environ}

    def one(name: str, seed: int) -> int:
        folder, output = folders.get(), Path(f".runs/{run.record_path(name, seed).stem}.log")
        print(f"{name}, seed {seed}: started, output in {output}", flush=True)
        command = ["-m", "tools.run", name, "--folder", folder, "-S", f"train.seed={seed}", "--record"]
        output.parent.mkdir(exist_ok=True)
        with output.open("w") as file:
            status = subprocess.run([sys.executable, *command], env=environment, stdout=file, stderr=file).returncode
        folders.put(folder)
        print(f"{name}, seed {seed}: {'failed' if status else 'recorded'}", flush=True)
        return status

    pool = ThreadPoolExecutor(jobs)
    try:
        statuses = list(pool.map(lambda run: one(*run), wanted))
    finally:
        pool.shutdown(cancel_futures=True)  # after an interruption, which those that run have received too
    return [f"{name}, seed {seed}" for (name, seed), status in zip(wanted, statuses, strict=True) if status]


def main() -> None:
    """Run what is missing and write the page; exit status 1 when a run failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.orders", description=__doc__.split("\n\n")[1])
    parser.add_argument("--jobs", type=int, choices=range(1, 17), default=1, metavar="N", help="runs at a time (1)")
    jobs = parser.parse_args().jobs
    with reported("interrupted; run the same command again for what is missing"):
        if failed := run_all(missing(), jobs):
            raise WorkError(f"failed: {'; '.join(failed)}")
        results.main()


if __name__ == "__main__":
    main()
