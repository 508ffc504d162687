"""The end of an epoch: validation, snapshots, and numbers that are not finite."""

import math

import pytest
import torch

from tests.training.conftest import break_weights, broken
from vae.data.images import pixels
from vae.errors import WorkError
from vae.seeds import derive
from vae.training.validation import mean_bound, mean_terms

pytestmark = pytest.mark.usefixtures("lean")
pytestmark = pytest.mark.usefixtures("lean")


def test_the_validation_columns_judge_the_weights_after_the_epoch(run, data, make_train):
    progress, model = run(data, epochs=1)
    log_likelihood, kl = mean_terms(model, data.validation, derive(make_train().seed, "train.validation"))
    row = progress.history[0]
    assert row["validation_reconstruction_nll"] == round(-log_likelihood, 4)
    assert row["validation_kl"] == round(kl, 4)
    assert row["validation_elbo"] == round(log_likelihood - kl, 4)


def test_the_validation_bound_is_that_of_the_weights_after_the_epoch(run, data, make_train):
    progress, model = run(data, epochs=1, objective="iwae", particles=3)
    seed = derive(make_train().seed, "train.validation_bound")
    assert progress.history[0]["validation_bound"] == round(mean_bound(model, data.validation, seed, 3), 4)


def test_the_elbo_as_an_objective_has_no_other_bound(run, data):
    assert "validation_bound" not in run(data, particles=3)[0].history[0]


def test_a_validation_bound_that_is_not_finite_stops_the_run(run, data, monkeypatch):
    monkeypatch.setattr("vae.training.epoch.mean_bound", lambda *_: math.nan)
    with pytest.raises(WorkError, match="the validation bound is not finite after epoch 1"):
        run(data, objective="iwae")


def test_snapshots_are_taken_after_the_chosen_epochs_and_the_last(run, unvalidated):
    progress, _ = run(unvalidated, epochs=4, snapshot_epochs=[1, 3, 9])
    assert list(progress.snapshots) == [1, 3, 4]
    for images in progress.snapshots.values():
        assert images.shape == unvalidated.showcase.images.shape
        assert images.dtype == torch.float32
        assert bool(((images >= 0) & (images <= 1)).all())
    assert not torch.equal(progress.snapshots[1], progress.snapshots[3])


def test_snapshots_are_reconstructions_by_the_weights_of_their_epoch(run, unvalidated):
    showcase = pixels(unvalidated.showcase.images, binarize=False)
    progress, model = run(unvalidated, schedule="constant", epochs=2, snapshot_epochs=[1])
    _, after_one_epoch = run(unvalidated, schedule="constant", epochs=1)
    assert torch.equal(progress.snapshots[1], after_one_epoch.reconstruct(showcase))
    assert torch.equal(progress.snapshots[2], model.reconstruct(showcase))


def test_snapshots_end_with_the_best_epoch(run, data, validation_elbos):
    validation_elbos(-50.0, -40.0, -45.0, -60.0)
    progress, model = run(data, epochs=4, snapshot_epochs=[3, 1, 4])
    assert list(progress.snapshots) == [1, 2]
    assert torch.equal(progress.snapshots[2], model.reconstruct(pixels(data.showcase.images, binarize=False)))


def test_weights_that_are_no_numbers_stop_the_run_at_its_first_step(run, data, make_model):
    with pytest.raises(WorkError, match=r"not finite at epoch 1, step 1 of 3: lower train\.learning_rate \(now 0\.01"):
        run(data, broken(make_model()))


def test_a_rate_that_is_far_too_high_stops_the_run(run, data):
    with pytest.raises(WorkError, match=r"epoch 1, step 2 of 3: lower train\.learning_rate \(now 1e\+30\)"):
        run(data, learning_rate=1e30, schedule="constant")


@pytest.mark.parametrize(("at", "where"), [(2, "epoch 1, step 3"), (3, "epoch 2, step 1"), (7, "epoch 3, step 2")])
def test_the_message_names_epoch_and_step(run, data, monkeypatch, at, where):
    break_weights(monkeypatch, at)
    with pytest.raises(WorkError, match=where):
        run(data)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_validation_loss_that_is_not_finite_stops_the_run(run, data, validation_elbos, epoch, value):
    validation_elbos(*[-50.0] * (epoch - 1), value, -45.0, -40.0)
    with pytest.raises(WorkError, match=f"epoch {epoch}"):
        run(data)
