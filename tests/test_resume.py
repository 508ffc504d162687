"""Training that is killed at random moments ends with the same bytes as training that is left alone."""

import json
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


@pytest.mark.fault
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


@pytest.mark.fault
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


def test_a_running_experiment_shows_its_own_progress_and_finishes_when_asked(long_training: Path) -> None:
    change(long_training, train={"epochs": 2000})  # minutes, of which it gets seconds
    call(long_training, "git", "commit", "--quiet", "--all", "--message=Train for longer")
    process = start(long_training, "dvc", "exp", "run", "--temp", "--name", "watched", "train")
    # The folder that DVC made for it, once there are more epochs than in the run before.
    while not (found := [path for path in folders(long_training) if len(rows(path / "plots/history.csv")) > 3]):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    shown = metrics_shown(long_training, "watched")
    (found[0] / "data/.finish").touch()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "ended as asked after epoch" in output

    assert shown["metrics/train.json"]["data"]["best_epoch"] >= 1
    assert not {"metrics/evaluate.json", "metrics/sample.json"} & {name for name in shown if "data" in shown[name]}
    kept = metrics_shown(long_training, "watched")["metrics/train.json"]["data"]
    assert 3 < kept["epochs"] < 2000
    call(long_training, "dvc", "exp", "apply", "watched")
    assert len(rows(long_training / "plots/history.csv")) == kept["epochs"]


def folders(checkout: Path) -> list[Path]:
    """Where DVC runs experiments that were started with --temp."""
    return list(checkout.glob(".dvc/tmp/exps/standalone/*"))


def rows(history: Path) -> list[str]:
    return history.read_text().splitlines()[1:] if history.exists() else []


def metrics_shown(checkout: Path, name: str) -> dict[str, dict]:
    """The metrics of an experiment as `dvc exp show` has them, by file: `data` or `error`."""
    (commit,) = json.loads(call(checkout, "dvc", "exp", "show", "--json"))[1:]
    (metrics,) = [
        run["data"]["metrics"] for group in commit["experiments"] for run in group["revs"] if run["name"] == name
    ]
    return metrics


@pytest.mark.fault
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_a_signal_finishes_training_after_its_epoch_and_the_later_stages_run(long_training: Path) -> None:
    process = start(long_training, "python", "-m", "stages.train")
    for line in process.stdout:
        if line.startswith("epoch "):
            process.send_signal(signal.SIGUSR1)
            break
    output = process.communicate(timeout=60)[0]
    assert (process.returncode, "ended as asked after epoch" in output) == (0, True), output
    assert "Traceback" not in output
    epochs = json.loads((long_training / "metrics/train.json").read_text())["epochs"]
    assert epochs == len(rows(long_training / "plots/history.csv")) < 40
    call(long_training, "python", "-m", "stages.evaluate")


@pytest.mark.fault
def test_a_run_goes_on_elsewhere_with_the_threads_that_it_was_begun_with(long_training: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(long_training, tmp_path / "elsewhere"))
    call(long_training, "env", "OMP_NUM_THREADS=1", "python", "-m", "stages.train")

    process = start(elsewhere, "env", "OMP_NUM_THREADS=1", "python", "-m", "stages.train")
    while process.poll() is None and not list((elsewhere / "data/.checkpoints").glob("*/last.pt")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert "the next run resumes from it" in process.communicate(timeout=60)[0]
    # Threads beyond the cores would be as many as there are cores.
    here = min(2, os.cpu_count() or 1)
    output = call(elsewhere, "env", f"OMP_NUM_THREADS={here}", "python", "-m", "stages.train")

    assert "resuming from checkpoint" in output
    assert ("resuming as the run was begun: threads 1 (here 2)" in output) == (here == 2)
    assert contents(elsewhere, *OUTPUTS) == contents(long_training, *OUTPUTS)
