"""Trainings of several processes on scikit-learn's digits, which tests disturb; found by the folder they work in."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.checkouts import ENVIRONMENT, ROOT, change

TINY = {
    "download": {"dataset": "digits"},
    "prepare": {"validation_size": 200},
    "model": {"latent_dim": 2, "encoder_widths": [8], "decoder_widths": [8], "prior": "standard_normal"},
    "train": {"device": "cpu", "epochs": 4, "step": "eager", "checkpoint_every": 1, "snapshot_epochs": [1]},
}
ENDLESS = {"processes": 2, "epochs": 100_000}
# Trains like `stages.train`, but gives up ranks that do not answer after seconds, and fails as it is told.
HASTY = """
import os, runpy
import torch
from torch.distributed.elastic.multiprocessing import PContext
from vae import launcher, ranks
from vae.training.step import Step

ranks.TIMEOUT = 8
# torch's launcher gives a rank that hangs 30 seconds for SIGTERM, and no setting changes that.
PContext.close.__defaults__ = (None, 3)
launch, call = launcher.launch, Step.__call__

def disturbed(self, size):
    if self.index.item() == 40:
        {fault}
    call(self, size)

launcher.launch = lambda module, count: launch("hasty", count)
Step.__call__ = disturbed
runpy.run_module("stages.train", run_name="__main__", alter_sys=True)
"""
SECONDS = 120  # that anything may take here before it counts as hanging
SURROUNDINGS = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}


def python_in(folder: Path, module: str) -> str:
    """What a module that must succeed prints."""
    command = [sys.executable, "-m", module]
    done = subprocess.run(
        command, cwd=folder, env=SURROUNDINGS, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def prepared_in(folder: Path) -> None:
    """Make a folder with settings for a tiny run and the digits, split; one process does, which halves the imports."""
    folder.mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    change(folder, **TINY)
    (folder / "prepared.py").write_text(
        "import runpy\n"
        "for name in ('download', 'prepare'):\n"
        "    runpy.run_module(f'stages.{name}', run_name='__main__', alter_sys=True)\n"
    )
    python_in(folder, "prepared")


def write_hasty(folder: Path, fault: str = "pass") -> None:
    (folder / "hasty.py").write_text(HASTY.format(fault=fault))


@contextmanager
def running(folder: Path, *command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a folder; at the end of the block all that works in the folder is ended."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=SURROUNDINGS | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores SIGINT, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        for number in members(folder).values():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.communicate(timeout=SECONDS)


def members(folder: Path) -> dict[int | str, int]:
    """The numbers of the processes that work in a folder, by rank; those without one by their commands."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()) == folder.resolve() and process.pid != os.getpid():
                rank = process.environ().get("RANK")
                found[" ".join(process.cmdline()) if rank is None else int(rank)] = process.pid
    return found


def launcher_of(folder: Path) -> int:
    (number,) = [number for name, number in members(folder).items() if isinstance(name, str) and "-m" in name]
    return number


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "too late"
        time.sleep(0.05)


def states(folder: Path) -> dict[Path, int]:
    """The newest checkpoints, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("data/.checkpoints/*/last.pt")}


def wait_for_steps(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a training has written a checkpoint since this was called."""
    before = states(folder)
    wait_until(lambda: process.poll() is not None or states(folder) != before)
    assert process.poll() is None, process.communicate(timeout=SECONDS)


def errors(text: str) -> list[str]:
    """The messages to people in what was written to stderr."""
    return [line for line in text.splitlines() if line.startswith("error: ")]
