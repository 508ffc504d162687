"""The results' page says what the records say, and nothing else."""

import json
import math
import re

import pytest

from tools import results
from vae.errors import InputError


@pytest.fixture
def write_record(tmp_path, monkeypatch):
    """Give a function that keeps a record of a made-up run, in a folder that starts empty."""
    monkeypatch.setattr(results, "RECORDS", tmp_path)

    def write(name, epochs, **metrics):
        record = {
            "metrics": metrics,
            "settings": {"train": {"epochs": epochs}, "evaluate": {"importance_samples": 7}},
            "seconds": 90,
            "machine": {"gpu": None, "processor": "abacus"},
            "date": "2026-01-02",
        }
        (tmp_path / f"{name.replace('/', '-')}.json").write_text(json.dumps(record))

    return write


METRICS = {"test_nll": 90.0, "test_nll_stderr": 0.3, "test_elbo": -95.0, "test_elbo_stderr": 0.4}


def test_the_page_is_what_the_command_writes(tmp_path, monkeypatch):
    written = results.PAGE.read_bytes()
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    results.main()
    assert results.PAGE.read_bytes() == written


def test_a_run_that_was_cut_short_says_so(write_record):
    write_record("gated-mlp", 10, **METRICS)
    row = results.row("gated-mlp")
    assert (row["nll"], row["elbo"], row["epochs"]) == ("90.00 ± 0.30", "-95.00 ± 0.40", "10 of 2000")
    assert (row["time"], row["where"], row["samples"]) == ("1.5 min", "abacus, 2026-01-02", "7")


def test_a_relaxed_bernoullis_figures_are_no_likelihood(write_record):
    write_record("pyro-example", 101, **{f"relaxed_{name}": value for name, value in METRICS.items()})
    assert results.row("pyro-example")["nll"] == "90.00 ± 0.30 (no likelihood)"


@pytest.mark.parametrize("name", results.PUBLISHED)
def test_a_row_beside_a_published_figure_states_its_departures_on_the_page(name):
    page = results.PAGE.read_text()
    numbers = results.row(name)["departures"].split(", ")
    stated = results.departures(name)
    assert len(numbers) == len(stated) > 0
    for number, text in zip(numbers, stated, strict=True):
        assert f"\n{number}. {text}\n" in page


def test_a_file_that_names_a_papers_figure_has_it_on_the_page_and_no_other_has_departures():
    for name in results.names():
        text = (results.EXPERIMENTS / f"{name}.yaml").read_text()
        figure = re.search(r"\(paper: NLL (.*?)\)", text)
        assert (figure[1] if figure else None) == (
            f"{results.PUBLISHED[name][0]:.2f}" if name in results.PUBLISHED else None
        )
        assert bool(results.departures(name)) == bool(figure)


def test_an_experiment_without_a_record_has_no_figure(write_record):
    assert results.row("best")["nll"] == "-"
    assert results.order_row("best", "demo")["epochs"] == "not run"


def test_an_order_is_given_in_standard_errors_of_the_difference(write_record):
    write_record("best", 5, **METRICS | {"test_nll": 88.5, "test_nll_stderr": 0.4})
    write_record("demo", 5, **METRICS)
    row = results.order_row("best", "demo")
    assert (row["gain"], row["error"], row["ratio"]) == (1.5, 0.5, 3.0)
    assert math.isclose(results.order_row("demo", "best")["gain"], -1.5)


def test_runs_of_unequal_epochs_are_not_compared(write_record):
    write_record("best", 5, **METRICS)
    write_record("demo", 6, **METRICS)
    with pytest.raises(InputError, match=r"best, demo: their runs differ in train.epochs"):
        results.order_row("best", "demo")
