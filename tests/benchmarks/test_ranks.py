"""The benchmark of processes that share a mini-batch."""

import pytest
import torch

from benchmarks import ranks
from benchmarks.ranks import Case
from vae.errors import WorkError

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture
def launched(monkeypatch):
    """Stand for launches: 2 s with all threads, 3 s with one, 1.6 s for two processes, twice that in later rounds."""
    cases = []

    def launch(case, name, images, device):
        cases.append(case)
        seconds = {Case(1): 2.0, Case(1, 1): 3.0, Case(2, 1): 1.6}[case] * (1 + (len(cases) > 3))
        return {
            "seconds": seconds,
            "threads": case.threads or 2,
            "megabytes_per_step": 0.0,
            "least_megabytes": 0.0,
        }

    monkeypatch.setattr(ranks, "_launch", launch)
    return cases


def test_the_ideal_is_the_speed_of_one_with_a_share_of_the_threads(two_threads, launched):
    rows = list(ranks.scaling(CPU, 4_000, rounds=2))
    assert [(row["processes"], row["threads"]) for row in rows] == [(1, 2), (1, 1), (2, 1)] * 2
    assert launched[:6] == [Case(1), Case(1, 1), Case(2, 1)] * 2
    assert [row["share_of_ideal"] for row in rows[:3]] == pytest.approx([3 / 2 / 2, 1 / 2, 3 / 1.6 / 2])
    assert rows[0]["images_per_second"] == pytest.approx(1000 / 3)  # the median of 2 and 4 seconds


def test_a_launch_that_fails_is_a_row_that_says_so(two_threads, monkeypatch):
    def fail(case, *_):
        raise WorkError("2 processes: no network")

    monkeypatch.setattr(ranks, "_launch", fail)
    rows = list(ranks.scaling(CPU, 4_000, rounds=2))
    assert [row["failed"] for row in rows] == ["2 processes: no network"] * 2


@pytest.mark.slow
def test_two_processes_send_what_a_sum_has_to(two_threads):
    timing = ranks._launch(Case(2, 1), "784-400-50", 512, CPU)
    assert timing["seconds"] > 0
    assert timing["threads"] == 1
    # Others may use the loopback device, too.
    assert timing["megabytes_per_step"] is None or timing["megabytes_per_step"] >= timing["least_megabytes"]


@pytest.mark.slow
def test_a_launch_that_ends_with_an_error_is_named(two_threads):
    with pytest.raises(WorkError, match=r"1 processes: .*unknown"):
        ranks._launch(Case(1), "unknown", 512, CPU)
