"""The results' page says what the records say, and nothing else."""

import json
import re

import numpy as np
import pytest

from tools import results, run
from vae.errors import InputError
from vae.files import write_arrays

IMAGES = 400
CODE = {"vae/model": "a1", "stages/train.py": "b2"}


@pytest.fixture
def write_record(tmp_path, monkeypatch):
    """Give a function that keeps a record of a made-up run, in a folder that starts empty; its NLLs come back."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)

    def write(name, epochs, seed=0, code=CODE, images="ab", nll=None, **metrics):
        record = {
            "metrics": metrics,
            "settings": {"train": {"epochs": epochs, "seed": seed}, "evaluate": {"importance_samples": 7}},
            "seconds": 90,
            "machine": {"gpu": None, "processor": "abacus"},
            "date": "2026-01-02",
            "test_images": images,
            **({"code": code} if code else {}),
        }
        values = np.random.default_rng(seed).normal(90, 6, IMAGES) if nll is None else nll
        path = run.record_path(name, seed)
        path.write_text(json.dumps(record))
        write_arrays(path.with_suffix(".npz"), {"nll": values.astype(np.float32)})
        return values

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
    assert (row["elbo"], row["seeds"], row["epochs"]) == ("-95.00 ± 0.40", "1", "10 of 2000")
    assert (row["time"], row["where"], row["samples"]) == ("1.5 min", "abacus, 2026-01-02", "7")


def test_a_relaxed_bernoullis_figures_are_no_likelihood(write_record):
    nll = write_record("pyro-example", 101, **{f"relaxed_{name}": value for name, value in METRICS.items()})
    error = nll.std(ddof=1) / 20
    assert results.row("pyro-example")["nll"] == f"{nll.mean():.2f} ± {error:.2f} (not a likelihood)"


def test_a_figure_is_the_mean_over_seeds_with_the_error_of_images_and_seeds(write_record):
    nll = np.array([write_record("gated-mlp", 10, seed, **METRICS | {"test_elbo": -95.0 - seed}) for seed in range(3)])
    row = results.row("gated-mlp")
    error = np.hypot(nll.mean(0).std(ddof=1) / np.sqrt(IMAGES), nll.mean(1).std(ddof=1) / np.sqrt(3))
    assert (row["nll"], row["seeds"]) == (f"{nll.mean():.2f} ± {error:.2f}", "3")
    # The ELBOs have a standard deviation of 1 over seeds.
    assert row["elbo"] == f"-96.00 ± {np.hypot(0.4, 1 / np.sqrt(3)):.2f}"


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


def test_an_order_is_paired_over_images_and_seeds(write_record):
    generator = np.random.default_rng(1)
    worse = generator.normal(90, 6, (3, IMAGES))
    gains = generator.normal(0.5, 1, (3, IMAGES)) + np.array([[-0.1], [0.0], [0.1]])
    for seed in range(3):
        write_record("demo", 5, seed, nll=worse[seed], **METRICS)
        write_record("best", 5, seed, nll=worse[seed] - gains[seed], **METRICS)
    row = results.order_row("best", "demo")
    error = np.hypot(gains.mean(0).std(ddof=1) / np.sqrt(IMAGES), gains.mean(1).std(ddof=1) / np.sqrt(3))
    # NLLs of about 90 are kept in float32.
    assert (row["gain"], row["error"]) == pytest.approx((gains.mean(), error), rel=1e-4)
    assert row["ratio"] == row["gain"] / row["error"]
    # Unpaired, the images alone would give 0.24.
    assert row["error"] < 0.1
    assert (row["order"], results.order_row("demo", "best")["order"]) == ("established", "reversed")
    assert results.order_row("demo", "best")["gain"] == pytest.approx(-row["gain"])


@pytest.mark.parametrize(
    ("gains", "error", "order"),
    [
        ([1.0, 2.0, 3.0], 0.9, "established"),
        ([-1.0, -2.0, -3.0], 0.9, "reversed"),
        ([1.0, 2.0, 3.0], 1.1, "not established"),  # within two errors
        ([-0.1, 3.0, 3.1], 0.5, "not established"),  # a seed disagrees
        ([3.0, 3.0], 0.1, "not established"),  # too few seeds
    ],
)
def test_an_order_needs_three_seeds_of_one_sign_and_two_errors(gains, error, order):
    assert results.order(gains, error) == order


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"epochs": 6}, "best, demo: their runs differ in train.epochs"),
        ({"seed": 1}, "best, demo: their runs differ in train.seed"),
        ({"images": "cd"}, "best, demo: their runs differ in their test images"),
    ],
)
def test_runs_that_cannot_be_paired_are_not_compared(write_record, other, reason):
    write_record("best", 5, **METRICS)
    write_record(**{"name": "demo", "epochs": 5} | METRICS | other)
    with pytest.raises(InputError, match=reason):
        results.order_row("best", "demo")


@pytest.mark.parametrize("other", [{"epochs": 6}, {"images": "cd"}])
def test_seeds_of_an_experiment_differ_in_nothing_else(write_record, other):
    write_record("best", 5, **METRICS)
    write_record(**{"name": "best", "epochs": 5, "seed": 1} | METRICS | other)
    with pytest.raises(InputError, match=r"best-seed1\.json: other"):
        results.read_runs("best")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Where the page is written."""
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    return results.PAGE


def test_a_page_of_one_code_names_it_and_what_is_missing(write_record, page):
    for seed in range(3):
        write_record("short/vampprior", 5, seed, **METRICS)
    results.main()
    text = page.read_text()
    assert "`vae/model` a1, `stages/train.py` b2" in text
    assert text.index("short/vampprior ") < text.index("## Expected order") < text.index("short/standard-prior ")
    assert "not run" in text


def test_a_page_of_different_code_is_refused(write_record, page):
    write_record("best", 5, **METRICS)
    write_record("demo", 5, code=CODE | {"vae/model": "a2"}, **METRICS)
    with pytest.raises(InputError, match=r"records of different code.*\(vae/model\)"):
        results.main()
    assert not page.exists()


def test_a_record_without_its_code_is_refused(write_record, page):
    write_record("best", 5, code=None, **METRICS)
    with pytest.raises(InputError, match=r"best-seed0\.json: no identity of its code"):
        results.main()
    assert not page.exists()


def test_a_record_that_belongs_to_no_experiment_is_refused(write_record, page):
    write_record("gone", 5, **METRICS)
    with pytest.raises(InputError, match=r"gone-seed0\.json: not the record of"):
        results.main()


def test_the_committed_records_are_of_one_code_with_their_images(tmp_path):
    runs = [results.read_runs(name) for name in results.names()]
    results.same_code(found for found in runs if found)
    for found in runs:
        assert found is None or found.nll.shape == (len(found.seeds), 10_000)
