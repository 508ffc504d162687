"""Start workers for DVC's queue that share this machine: `python -m tools.queue --jobs 2`.

The cores are divided among the workers, and where there are several GPUs each worker has its own, in turn. The workers
run what `dvc exp run --queue` has put into the queue, in the background, and end when it is empty.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from tools.errors import reported
from tools.run import environment
from vae.errors import InputError, WorkError

PATIENCE = 60  # seconds for a worker to start, which takes three on an idle machine

Share = Mapping[str, str]


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    return os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")[:count]


def shares(jobs: int) -> list[Share]:
    """Each worker's variables: its part of the cores, at most OMP_NUM_THREADS, and one GPU where there are several."""
    from vae.device import threads_each  # imports torch, which takes seconds that those who only call DVC need not wait

    threads, devices = threads_each(jobs), gpus()
    divided = [{"CUDA_VISIBLE_DEVICES": devices[job % len(devices)]} if len(devices) > 1 else {} for job in range(jobs)]
    return [{"OMP_NUM_THREADS": str(threads), **device} for device in divided]


def status() -> tuple[int, int]:
    """How many runs wait or are under way, and how many workers there are."""
    text = call_dvc("queue", "status")
    workers = re.search(r"^Worker status: (\d+) active, (\d+) idle", text, re.MULTILINE)
    if workers is None:
        raise WorkError(f"dvc queue status: no line on workers in {text!r}")
    return len(re.findall(r" (?:Queued|Running)\s*$", text, re.MULTILINE)), sum(map(int, workers.groups()))


def start(of_workers: Sequence[Share]) -> None:
    """Start those workers that do not run yet, each with its own variables.

    Raises:
        WorkError: a worker does not start.
    """
    # DVC numbers its workers: `--jobs N` starts those up to N that do not run, with this call's variables.
    if all(share == of_workers[0] for share in of_workers):
        call_dvc("queue", "start", "--jobs", str(len(of_workers)), **of_workers[0])
        return
    for number, share in enumerate(of_workers, 1):
        call_dvc("queue", "start", "--jobs", str(number), **share)
        _wait_for(number)


def _wait_for(workers: int) -> None:
    """Wait until `workers` workers run, or have nothing to do."""
    deadline = time.monotonic() + PATIENCE
    while True:
        runs, found = status()
        if not runs or found >= workers:
            return
        if time.monotonic() > deadline:
            raise WorkError(
                f"worker {workers} of DVC's queue has not started within {PATIENCE} seconds; "
                f".dvc/tmp/exps/celery/dvc-exp-worker-{workers}.out may say why"
            )


def call_dvc(*arguments: str, **variables: str) -> str:
    """Run a command of DVC with additional variables, and return what it printed.

    Raises:
        WorkError: it failed; the message ends with DVC's own.
    """
    command = [sys.executable, "-m", "dvc", *arguments]
    # Files, because workers that it starts hold what they inherit, and the end of a pipe would come with theirs.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": messages}
        status = subprocess.run(command, env=environment() | variables, **streams).returncode
        output.seek(0)
        messages.seek(0)
        if status:
            raise WorkError(f"dvc {' '.join(arguments)}: exit status {status}\n{messages.read().strip()}")
        sys.stderr.write(messages.read())
        return output.read()


def main() -> None:
    """Start the workers, and say what each has."""
    parser = argparse.ArgumentParser(prog="python -m tools.queue", description=__doc__.split("\n\n")[1])
    parser.add_argument("--jobs", type=int, choices=range(1, 65), default=1, metavar="N", help="runs at a time (1)")
    jobs = parser.parse_args().jobs
    with reported():
        runs, workers = status()
        if not runs:
            raise InputError("nothing is queued; `dvc exp run --queue` queues a run")
        if workers:
            raise InputError(f"{workers} workers are already running; stop them first with `dvc queue stop`")
        start(of_workers := shares(jobs))
    for number, share in enumerate(of_workers, 1):
        print(f"worker {number}: {' '.join(f'{name}={value}' for name, value in share.items())}")
    print("`dvc queue status` shows the runs, `dvc queue logs NAME` what one prints, `dvc queue stop --kill` ends all")


if __name__ == "__main__":
    main()
