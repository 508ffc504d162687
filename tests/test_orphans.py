"""Stages whose DVC is gone: they end by themselves, and nothing of theirs reaches the next run."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkouts import ENVIRONMENT, call, change, contents

pytestmark = [pytest.mark.slow, pytest.mark.fault]

OUTPUTS = ("data/model.safetensors", "data/snapshots.npz", "plots/history.csv", "metrics/train.json")
ENDLESS = {"step": "eager", "epochs": 100_000, "batch_size": 16, "checkpoint_every": 1, "snapshot_epochs": [1]}


def wait_for(condition: Callable[[], object], seconds: float) -> float:
    """Wait until something holds, and return how long it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "too late"
        time.sleep(0.05)
    return time.monotonic() - start


def processes(folder: Path) -> list[str]:
    """The commands of the processes that work in a folder or below it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink().is_relative_to(folder):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def test_other_settings_after_dvc_was_killed_alone_get_their_own_results(checkout: Path, tmp_path: Path) -> None:
    settings = (checkout / "params.yaml").read_bytes()
    change(checkout, train={"seed": 5, "epochs": 2})
    undisturbed = Path(shutil.copytree(checkout, tmp_path / "undisturbed"))
    call(undisturbed, "python", "-m", "stages.train")

    (checkout / "params.yaml").write_bytes(settings)
    change(checkout, train=ENDLESS)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    dvc = subprocess.Popen(("dvc", "repro", "train"), cwd=checkout, env=ENVIRONMENT, **streams)
    wait_for(lambda: list((checkout / "data/.checkpoints").glob("*/last.pt")), 120)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    change(
        checkout, train={"seed": 5, "epochs": 2, "batch_size": 256, "checkpoint_every": 5, "snapshot_epochs": [1, 2]}
    )
    said = call(checkout, "dvc", "repro", "train")
    assert "different settings (train.epochs, train.batch_size, train.snapshot_epochs, train.seed)" in said
    assert contents(checkout, *OUTPUTS) == contents(undisturbed, *OUTPUTS)
    assert "error: the DVC process that started it is gone; stopping\n" in dvc.communicate(timeout=20)[0]
    assert processes(checkout) == []
    assert contents(checkout, *OUTPUTS) == contents(undisturbed, *OUTPUTS), "also once the orphan has ended"


def test_a_queue_that_is_stopped_and_killed_leaves_no_process_and_no_folder(checkout: Path) -> None:
    values = [f"train.{key}={value}" for key, value in ENDLESS.items() if key != "snapshot_epochs"]
    parameters = [word for value in values for word in ("--set-param", value)]
    call(checkout, "dvc", "exp", "run", "--queue", *parameters, "train")
    subprocess.run(("dvc", "queue", "start"), cwd=checkout, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: list(checkout.glob(".dvc/tmp/exps/*/data/.checkpoints/*/last.pt")), 120)
        assert any("stages.train" in command for command in processes(checkout))
    finally:
        subprocess.run(("dvc", "queue", "stop", "--kill"), cwd=checkout, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    wait_for(lambda: not any("stages." in command for command in processes(checkout)), 20)
    wait_for(lambda: not list(checkout.glob(".dvc/tmp/exps/tmp*")), 20)
