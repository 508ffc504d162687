"""A run's history, its best epoch and what it prints."""

import pytest
import torch

from tests.training.conftest import SPLITS, same_weights
from vae.training.progress import Progress, scores

pytestmark = pytest.mark.usefixtures("lean")


def columns(*splits):
    return {f"{split}_{name}" for split in splits for name in ("elbo", "reconstruction_nll", "kl")}


def test_history_has_one_row_per_epoch_with_the_documented_columns(run, data, unvalidated):
    for split_data, splits in [(data, SPLITS), (unvalidated, ("train",))]:
        progress, _ = run(split_data)
        assert [row["epoch"] for row in progress.history] == [1, 2, 3]
        for row in progress.history:
            assert set(row) == {"epoch", "learning_rate"} | columns(*splits)


def test_the_elbo_is_the_difference_of_its_columns(run, data):
    progress, _ = run(data)
    for row in progress.history:
        for split in SPLITS:
            difference = -row[f"{split}_reconstruction_nll"] - row[f"{split}_kl"]
            # Each is rounded to four decimals on its own.
            assert row[f"{split}_elbo"] == pytest.approx(difference, abs=1.6e-4)
            assert row[f"{split}_kl"] > 0


def test_every_epoch_is_reported(run, data, capsys):
    progress, _ = run(data)
    last = progress.history[-1]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1] == f"epoch 3/3: ELBO {last['train_elbo']:.2f}, validation {last['validation_elbo']:.2f}"


def test_without_validation_the_best_epoch_is_the_last(run, unvalidated):
    progress, model = run(unvalidated, schedule="constant")
    assert progress.best_epoch == progress.epoch == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(progress.best[name], tensor)
    # A fourth epoch moves the weights on.
    _, longer = run(unvalidated, schedule="constant", epochs=4)
    assert not same_weights(model, longer)


def test_scores_are_those_of_the_best_epoch_each_with_its_error_if_that_is_known():
    rows = [{"epoch": epoch, "train_elbo": -90.0 - epoch, "validation_elbo": -95.0 - epoch} for epoch in (1, 2, 3)]
    progress = Progress(history=rows, best_epoch=2, errors={"train_elbo": 0.12346, "validation_elbo": 0.5})
    assert list(scores(progress).items()) == [
        ("train_elbo", -92.0),
        ("train_elbo_stderr", 0.1235),
        ("validation_elbo", -97.0),
        ("validation_elbo_stderr", 0.5),
        ("best_epoch", 2),
    ]
    assert scores(Progress(history=[{"train_elbo": -90.0}], best_epoch=1)) == {"train_elbo": -90.0, "best_epoch": 1}


def test_of_equal_epochs_the_first_is_the_best(run, data, validation_elbos):
    validation_elbos(-50.0, -40.0, -40.0)
    assert run(data)[0].best_epoch == 2
