"""Training that is watched while it runs, and asked to end."""

import signal
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import posix_only
from vae.training import watching
from vae.training.watching import train_watched

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture
def watched(data, make_model, make_train, tmp_path):
    """Give a function: a run of three epochs that is watched; returns its progress and whether it was cut short."""

    def make(write=lambda progress: None, curves=None, asked=lambda: False, **keys):
        torch.manual_seed(0)
        folder = tmp_path / "0123456789abcdef"
        return train_watched(make_model(), data, make_train(**keys), folder, write, curves, asked)

    return make


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    return Clock


def test_every_epoch_is_written_while_that_takes_no_time(watched, clock):
    seen = []
    progress, cut_short = watched(lambda progress: seen.append(progress.epoch))
    assert (seen, progress.epoch, cut_short) == ([1, 2, 3], 3, False)


@pytest.mark.parametrize(("epoch_takes", "expected"), [(9, [1]), (10, [1, 3]), (18, [1, 3]), (19, [1, 2, 3])])
def test_writing_takes_a_twentieth_of_the_time_at_most(watched, clock, epoch_takes, expected):
    seen = []

    def write(progress):
        seen.append(progress.epoch)
        clock.now += 1

    def asked():
        clock.now += epoch_takes
        return False

    watched(write, asked=asked)
    assert seen == expected


def test_a_file_that_somebody_reads_is_written_after_a_later_epoch(watched, clock):
    seen = []

    def write(progress):
        seen.append(progress.epoch)
        if progress.epoch == 1:
            raise PermissionError(13, "Permission denied")

    watched(write)
    assert seen == [1, 2, 3]


def test_curves_end_with_the_whole_history(watched, clock):
    class Curves:
        rows = 0

        def write(self, history):
            self.rows = len(history)

    def write(progress):
        clock.now += 1  # so that only the first epoch is shown as it ends

    curves = Curves()
    watched(write, curves)
    assert curves.rows == 3


def test_a_run_that_is_asked_to_ends_after_its_epoch(watched):
    progress, cut_short = watched(asked=lambda: True)
    assert (progress.epoch, cut_short) == (1, True)


@posix_only
def test_a_signal_asks_it_to_end_too(watched):
    progress, cut_short = watched(lambda progress: progress.epoch == 2 and signal.raise_signal(signal.SIGUSR1))
    assert (progress.epoch, cut_short) == (2, True)
