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
ONE_THREAD = ("env", "OMP_NUM_THREADS=1")
# A training of seconds, so that there is something to interrupt.
LONG = {"epochs": 20, "batch_size": 16, "checkpoint_every": 1, "ema_decay": 0.99, "snapshot_epochs": [1, 10]}


@pytest.fixture
def long_training(checkout: Path) -> Path:
    change(checkout, train=LONG)
    return checkout


@pytest.fixture(scope="module")
def undisturbed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the long training writes with one thread when it is left alone."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("undisturbed") / "checkout"))
    change(folder, train=LONG)
    call(folder, *ONE_THREAD, "python", "-m", "stages.train")
    return contents(folder, *OUTPUTS)


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, start_new_session=True, **streams)


def wait_for_epoch(process: subprocess.Popen[str]) -> str:
    """Wait until a training has ended an epoch, and return what it printed up to then."""
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("epoch "):
            break
    return printed


@pytest.mark.fault
def test_killed_again_and_again_and_resumed_by_dvc_repro(long_training: Path, undisturbed: dict[str, bytes]) -> None:
    command = (*ONE_THREAD, "dvc", "repro", "train")
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    taken_up = 0
    for _ in range(KILLS):
        process = start(long_training, *command)
        # From the first epoch on: a kill before it would only repeat the start.
        printed = "".join(wait_for_epoch(process) for _ in range(moments.randint(1, 6)))
        time.sleep(moments.uniform(0, 1))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        taken_up += "resuming from checkpoint" in printed + process.communicate()[0]
    output = call(long_training, *command)

    assert taken_up or "resuming from checkpoint" in output, f"no run was taken up (seed {seed})"
    assert contents(long_training, *OUTPUTS) == undisturbed, f"seed {seed}"
    assert not list((long_training / "data/.checkpoints").glob("*/")), "a finished training keeps no checkpoint"


@pytest.mark.fault
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_ctrl_c_saves_the_state_and_a_signal_finishes_training_after_its_epoch(long_training: Path) -> None:
    process = start(long_training, "python", "-m", "stages.train")
    wait_for_epoch(process)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped by SIGINT in epoch" in output
    assert "Traceback" not in output

    process = start(long_training, "python", "-m", "stages.train")
    assert "resuming from checkpoint" in wait_for_epoch(process)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=60)[0]
    assert (process.returncode, "ended as asked after epoch" in output) == (0, True), output
    assert "Traceback" not in output
    epochs = json.loads((long_training / "metrics/train.json").read_text())["epochs"]
    assert epochs == len(rows(long_training / "plots/history.csv")) < LONG["epochs"]
    call(long_training, "python", "-m", "stages.evaluate")


@pytest.mark.fault
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
    call(long_training, "dvc", "exp", "apply", "watched")
    epochs = json.loads((long_training / "metrics/train.json").read_text())["epochs"]
    assert 3 < epochs < 2000
    assert len(rows(long_training / "plots/history.csv")) == epochs


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
def test_a_run_that_a_signal_stopped_goes_on_with_the_threads_that_it_was_begun_with(
    long_training: Path, undisturbed: dict[str, bytes]
) -> None:
    process = start(long_training, *ONE_THREAD, "python", "-m", "stages.train")
    wait_for_epoch(process)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM in epoch" in output
    assert "the next run resumes from it" in output
    assert "Traceback" not in output
    # Threads beyond the cores would be as many as there are cores.
    here = min(2, os.cpu_count() or 1)
    output = call(long_training, "env", f"OMP_NUM_THREADS={here}", "python", "-m", "stages.train")

    assert "resuming from checkpoint" in output
    assert ("resuming as the run was begun: threads 1 (here 2)" in output) == (here == 2)
    assert contents(long_training, *OUTPUTS) == undisturbed
