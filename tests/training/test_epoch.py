"""The end of an epoch: validation, snapshots, and numbers that are not finite."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.training.conftest import break_weights, broken
from vae.data.images import pixels
from vae.errors import WorkError
from vae.seeds import derive
from vae.training import epoch
from vae.training.validation import mean_bound, mean_terms

pytestmark = pytest.mark.usefixtures("lean")
pytestmark = pytest.mark.usefixtures("lean")


def test_the_validation_columns_judge_the_weights_after_the_epoch(run, data, make_train):
    progress, model = run(data, epochs=1)
    log_likelihood, kl, error = mean_terms(model, data.validation, derive(make_train().seed, "train.validation"))
    row = progress.history[0]
    assert progress.errors["validation_elbo"] == error
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


# --- The error of the training ELBO


def test_the_error_of_a_mean_loss_is_that_over_images():
    images, batch, spread = 10_010, 50, 7.0
    values = torch.randn(images, dtype=torch.float64) * spread - 90
    losses = torch.stack([part.mean() for part in values.split(batch)])  # the last one of 10 images
    step = SimpleNamespace(losses=losses.float(), images=values, settings=SimpleNamespace(batch_size=batch))
    error = epoch._error_of_mean(step).item()
    # Of 201 means, the standard deviation is known to 5 %.
    assert error == pytest.approx(spread / math.sqrt(images), rel=0.2)


def test_the_error_of_a_mean_loss_weighs_mini_batches_by_their_size():
    losses, sizes = np.array([-90.0, -92.0, -85.0]), np.array([4, 4, 2])
    step = SimpleNamespace(losses=torch.tensor(losses), images=torch.zeros(10), settings=SimpleNamespace(batch_size=4))
    # Weighted least squares for a mean, with variances that are inverse to the sizes.
    deviations = losses - np.average(losses, weights=sizes)
    expected = math.sqrt((sizes * deviations**2).sum() / 2 / 10)
    assert epoch._error_of_mean(step).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("keys", "known"),
    [
        ({}, True),
        ({"particles": 3}, True),
        ({"kl": "sampled"}, True),
        ({"kl_warmup_epochs": 1}, True),
        ({"kl_warmup_epochs": 2}, False),
        ({"beta": 0.5}, False),
        ({"free_bits": 50}, False),
        ({"objective": "iwae", "particles": 3}, False),
        ({"objective": "dreg", "particles": 3}, False),
    ],
)
def test_the_training_elbo_has_an_error_where_the_loss_is_minus_the_elbo(run, unvalidated, monkeypatch, keys, known):
    mean_losses, error_of_mean = [], epoch._error_of_mean

    def observed(step):
        sizes = torch.tensor([64, 64, 22])
        mean_losses.append((sizes * step.losses).sum().item() / 150)
        return error_of_mean(step)

    monkeypatch.setattr(epoch, "_error_of_mean", observed)
    progress, _ = run(unvalidated, epochs=2, **keys)
    assert list(progress.errors) == ["train_elbo"] * known
    # Of rounded terms, in float32; what is not the ELBO is elsewhere.
    assert (mean_losses[-1] == pytest.approx(-progress.history[-1]["train_elbo"], abs=1e-3)) == known


def test_a_single_step_per_epoch_tells_no_error(run, unvalidated):
    assert run(unvalidated, batch_size=150)[0].errors == {}


def test_errors_are_those_of_the_best_epoch(run, data, validation_elbos, monkeypatch):
    validation_elbos(-50.0, -40.0, -45.0)
    found = iter([0.1, 0.2, 0.3])
    monkeypatch.setattr(epoch, "_error_of_mean", lambda _: torch.tensor(next(found), dtype=torch.float64))
    assert run(data)[0].errors == {"train_elbo": 0.2, "validation_elbo": 0.5}


# --- Snapshots, and numbers that are not finite


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
@pytest.mark.parametrize("number", [1, 2])
def test_a_validation_loss_that_is_not_finite_stops_the_run(run, data, validation_elbos, number, value):
    validation_elbos(*[-50.0] * (number - 1), value, -45.0, -40.0)
    with pytest.raises(WorkError, match=f"epoch {number}"):
        run(data)
