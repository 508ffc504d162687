"""Training on several processes of one machine: how many are started, and what happens when one of them fails."""

import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from tests.checkouts import change, contents
from tests.ranked import (
    ENDLESS,
    SECONDS,
    errors,
    launcher_of,
    members,
    prepared_in,
    python_in,
    running,
    wait_for_steps,
    wait_until,
    write_hasty,
)
from vae import launcher, ranks
from vae.device import set_up
from vae.errors import InputError, SettingError

OUTPUTS = ("data/model.safetensors", "data/snapshots.npz", "plots/history.csv", "metrics/train.json")
TRAIN = (sys.executable, "-m", "stages.train")
KEPT = "the last checkpoint is kept, and the next run resumes from it"


# How many processes


@pytest.mark.parametrize("value", [0, -1, 1025, 1.5, True, "many", None])
def test_a_wrong_number_of_processes_is_refused(make_settings, value):
    with pytest.raises(InputError, match=r"train\.processes: got .*, allowed: auto or a whole number from 1 to 1024"):
        make_settings(train={"processes": value})


@pytest.mark.parametrize(
    ("device", "processes", "gpus", "count"),
    [("cpu", 3, 0, 3), ("cpu", "auto", 4, 1), ("auto", "auto", 0, 1), ("auto", "auto", 4, 4), ("cuda", 2, 4, 2)],
)
def test_as_many_processes_as_are_asked_for_or_as_there_are_gpus(
    make_settings, monkeypatch, device, processes, gpus, count
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    settings = make_settings(train={"device": device, "processes": processes}).train
    assert launcher.wanted(settings) == count
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert launcher.wanted(settings) == 1, "one of several already"


@pytest.mark.parametrize(
    ("cores", "allowed", "processes", "threads"),
    [(8, "", 2, 4), (8, "4", 2, 2), (8, "64", 2, 4), (8, "2", 4, 1), (3, "", 2, 1), (64, "32", 2, 16), (64, "", 2, 16)],
)
def test_processes_share_the_threads_that_a_run_may_use(monkeypatch, cores, allowed, processes, threads):
    found = []

    def as_a_rank(*command):
        for name, value in {"RANK": 0, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}.items():
            monkeypatch.setenv(name, str(value))
        set_up("cpu")
        found.append(torch.get_num_threads())

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda config, program: as_a_rank)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    monkeypatch.setenv(ranks.REPORT, "")
    launcher.launch("stages.train", processes)
    assert found == [threads]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("vae.ranks.count", lambda: 3)
    monkeypatch.setattr("vae.ranks.on_this_machine", lambda: 3)
    with pytest.raises(
        SettingError, match=r"train\.processes: got 3 on this machine, allowed: at most 2, one for each"
    ):
        set_up("cuda")


# Runs of two processes


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with settings for two processes and the digits, split."""
    folder = tmp_path_factory.mktemp("launcher") / "prepared"
    prepared_in(folder)
    change(folder, train={"processes": 2})
    return folder


@pytest.fixture
def project(prepared, tmp_path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "project"))


@pytest.fixture
def endless(project) -> Path:
    change(project, train=ENDLESS)
    return project


def outcome(folder, process) -> list[str]:
    """The messages of a run that must end by itself and leave no process; without the bar that tells the progress."""
    _, error = process.communicate(timeout=SECONDS)
    wait_until(lambda: not members(folder))
    return errors(error)


def stopped_by(number) -> str:
    """The pattern of what a training says that a signal stopped."""
    return rf"error: stopped by {number.name} in epoch \d+, after step \d+; the state is saved, and the next run"


def resumed(folder, processes, number) -> str:
    """What the next run prints until it has gone on and a signal stopped it."""
    change(folder, train={"processes": processes})
    with running(folder, *TRAIN) as process:
        wait_for_steps(folder, process)
        process.send_signal(number)
        output, error = process.communicate(timeout=SECONDS)
        assert process.returncode == 128 + number
        (message,) = errors(error)
        assert re.match(stopped_by(number), message)
    assert "resuming from checkpoint: after epoch" in output
    return output


@pytest.mark.slow
def test_torchrun_by_hand_does_what_the_setting_does(project, tmp_path):
    other = Path(shutil.copytree(project, tmp_path / "other"))
    python_in(project, "stages.train")
    change(other, train={"processes": 1})
    command = ("torchrun", "--nproc-per-node", "2", "-m", "stages.train")
    with running(other, *command) as process:
        assert outcome(other, process) == []
        assert process.returncode == 0
    assert contents(other, *OUTPUTS) == contents(project, *OUTPUTS)


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_rank_ends_the_others_and_the_next_run_resumes_with_as_many_or_fewer(endless):
    with running(endless, *TRAIN) as process:
        wait_for_steps(endless, process)
        os.kill(members(endless)[1], signal.SIGKILL)
        assert outcome(endless, process) == [
            f"error: rank 1 of 2 was ended by SIGKILL, and the others after it; {KEPT}"
        ]
        assert process.returncode == 1
    # The launcher passes SIGINT on as it came, so that the first rank names it.
    assert "resuming with different" not in resumed(endless, 2, signal.SIGINT)
    expected = (
        r"resuming with different processes \(2, here 1\).*: the result differs by rounding from an uninterrupted"
    )
    assert re.search(expected, resumed(endless, 1, signal.SIGTERM))


@pytest.mark.slow
@pytest.mark.fault
def test_a_hanging_rank_is_given_up(endless):
    write_hasty(endless)
    script = endless / "hasty.py"
    # Gradients travel in two parts; where the cable is cut (test_nodes.py) they travel in one.
    script.write_text(f"from vae.training import exchange\nexchange.PART = 250\n{script.read_text()}")
    with running(endless, sys.executable, "-m", "hasty") as process:
        wait_for_steps(endless, process)
        os.kill(members(endless)[0], signal.SIGSTOP)
        (message,) = outcome(endless, process)
        assert process.returncode == 1
    assert "lost contact with rank 0 of 2: ended, hanging or cut off (" in message
    assert message.endswith(f"; {KEPT}")


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "if ranks.rank() == 1: raise MemoryError('not enough')",
            "rank 1: memory: not enough; lower train.batch_size",
        ),
        (
            "if ranks.rank() == 1: raise ValueError('a bug')",
            f"rank 1 of 2 ended (1), and the others after it; {KEPT}",
        ),
        ("with torch.no_grad(): self.parameters[0].fill_(float('nan'))", "the loss is not finite at epoch 9, step 1"),
    ],
    ids=["memory of one rank", "a bug on one rank", "divergence on all"],
)
def test_a_failing_rank_ends_the_others_with_one_message(endless, fault, message):
    write_hasty(endless, fault)
    with running(endless, sys.executable, "-m", "hasty") as process:
        (said,) = outcome(endless, process)
        assert said.startswith(f"error: {message}")
        assert process.returncode == 1


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize(("whom", "number"), [("launcher", signal.SIGTERM), ("group", signal.SIGINT)])
def test_a_signal_stops_all_ranks_after_the_same_step(endless, whom, number):
    with running(endless, *TRAIN) as process:
        wait_for_steps(endless, process)
        os.killpg(process.pid, number) if whom == "group" else process.send_signal(number)
        (message,) = outcome(endless, process)
        assert process.returncode == 128 + number
    assert re.match(stopped_by(number), message)


@pytest.mark.slow
@pytest.mark.fault
def test_ranks_end_soon_after_their_launcher(endless):
    with running(endless, *TRAIN) as process:
        wait_for_steps(endless, process)
        os.kill(launcher_of(endless), signal.SIGKILL)
        (message,) = outcome(endless, process)
    expected = (
        r"error: the launcher that started it is gone; stopped by SIGTERM in epoch \d+, .*; the state is saved, and"
    )
    assert re.match(expected, message)
