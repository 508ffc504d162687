"""Training that is killed at random moments ends with the same bytes as training that is left alone."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.checkouts import ENVIRONMENT, call, change, contents

pytestmark = pytest.mark.slow

OUTPUTS = ("data/model.safetensors", "data/snapshots.npz", "plots/history.csv", "metrics/train.json")
KILLS = 2


@pytest.fixture
def long_training(finished: Path, tmp_path: Path) -> Path:
    """A checkout whose training takes seconds, so that there is something to interrupt."""
    folder = Path(shutil.copytree(finished, tmp_path / "checkout"))
    change(
        folder,
        train={"epochs": 40, "batch_size": 16, "checkpoint_every": 1, "ema_decay": 0.99, "snapshot_epochs": [1, 20]},
    )
    return folder


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, start_new_session=True, **streams)


def test_killed_again_and_again_and_resumed_by_dvc_repro(long_training: Path, tmp_path: Path) -> None:
    undisturbed = Path(shutil.copytree(long_training, tmp_path / "undisturbed"))
    call(undisturbed, "dvc", "repro", "train")

    seed = random.randrange(2**32)
    moments = random.Random(seed)
    taken_up = 0
    for _ in range(KILLS):
        process = start(long_training, "dvc", "repro", "train")
        # From the first checkpoint on: a kill before it would only repeat the start.
        while process.poll() is None and not list((long_training / "data/.checkpoints").glob("*/last.pt")):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        taken_up += "resuming from checkpoint" in process.communicate()[0]
    output = call(long_training, "dvc", "repro", "train")

    assert taken_up or "resuming from checkpoint" in output, f"no run was taken up (seed {seed})"
    assert contents(long_training, *OUTPUTS) == contents(undisturbed, *OUTPUTS), f"seed {seed}"
    assert not list((long_training / "data/.checkpoints").glob("*/")), "a finished training keeps no checkpoint"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_says_where(long_training: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(long_training, "python", "-m", "stages.train")
    for line in process.stdout:
        if line.startswith("epoch "):
            break
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number
    assert f"stopped by {number.name} in epoch" in output
    assert "Traceback" not in output
    assert "resuming from checkpoint" in call(long_training, "dvc", "repro", "train")
