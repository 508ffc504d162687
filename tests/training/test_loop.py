import math

import numpy as np
import pytest
import torch

from tests.conftest import as_split
from tests.training.conftest import SPLITS, break_weights, broken, same_weights
from vae.data.images import Split, pixels
from vae.errors import InputError, WorkError
from vae.model import kernels
from vae.training import checkpoints
from vae.training.data import Data

pytestmark = pytest.mark.usefixtures("lean")
OFTEN = {"schedule": "constant", "checkpoint_every": 1}


# --- Before the first step


def test_a_graph_on_the_cpu_is_refused(run, data):
    with pytest.raises(InputError, match=r"train\.step: got 'graph', allowed on cpu: auto, eager"):
        run(data, step="graph")


# --- The loss


def test_the_elbo_rises_on_digits(run, digits):
    data = Data(as_split(digits[:1000]), as_split(digits[1000:1200]), as_split(digits[-5:]), binarize=True)
    progress, _ = run(data, epochs=6)
    for split in SPLITS:
        elbos = [row[f"{split}_elbo"] for row in progress.history]
        # Some 13 nats of a possible 20 in six epochs; one epoch's draws move the mean by some tenths.
        assert elbos[-1] > elbos[0] + 5
        assert elbos[-1] == max(elbos)


def test_averaged_weights_leave_the_training_itself_alone(run, unvalidated):
    plain, _ = run(unvalidated)
    averaged, _ = run(unvalidated, ema_decay=0.9)
    assert averaged.history == plain.history


def test_averaged_weights_are_judged_shown_and_kept(run, data, make_model):
    start = make_model()
    progress, model = run(data, ema_decay=1 - 1e-6, epochs=2)
    # An average this slow has not left the start, as the loss of weights that did shows.
    for ours, theirs in zip(model.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    shown = start.reconstruct(pixels(data.showcase.images, binarize=False)).detach()
    for images in progress.snapshots.values():
        torch.testing.assert_close(images, shown, rtol=0, atol=1e-5)
    first, second = (row["validation_elbo"] for row in progress.history)
    assert first == pytest.approx(second, abs=1e-2)
    assert progress.history[1]["train_elbo"] > progress.history[0]["train_elbo"] + 1


def test_bfloat16_comes_near_to_float32(run, data, monkeypatch):
    monkeypatch.setattr(kernels, "_LARGE", 0)  # so that these small products count as large
    exact, _ = run(data)
    rough, model = run(data, precision="bfloat16")
    assert rough.history != exact.history
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    for name in ("train_elbo", "validation_elbo"):
        # bfloat16 keeps 8 bits: relative errors of 0.4 % in layers of some ten terms, less in their mean.
        assert rough.history[-1][name] == pytest.approx(exact.history[-1][name], rel=0.005)


def test_tf32_is_float32_on_the_cpu_and_ends_with_the_run(run, data):
    exact, _ = run(data)
    fast, _ = run(data, precision="tf32")
    assert fast.history == exact.history
    assert not torch.backends.cuda.matmul.allow_tf32


def test_tf32_ends_with_a_run_that_fails(run, data, make_model):
    with pytest.raises(WorkError):
        run(data, broken(make_model()), precision="tf32")
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("changes", [{}, {"schedule": "constant", "ema_decay": 0.9, "gradient_clip": 5}])
def test_the_same_seed_gives_the_same_bytes(run, data, changes):
    first, first_model = run(data, **changes)
    again, again_model = run(data, **changes)
    assert again.history == first.history
    assert same_weights(again_model, first_model)
    for epoch, images in first.snapshots.items():
        assert torch.equal(again.snapshots[epoch], images)


def test_a_conditional_model_is_trained_judged_and_shown_with_labels(run, make_model, digits):
    def labeled(start, stop):
        return Split(digits[start:stop], torch.arange(stop - start) % 10)

    data = Data(labeled(0, 150), labeled(150, 250), labeled(250, 255), binarize=True)
    progress, model = run(data, make_model(condition="label"), epochs=1)
    showcase, labels = pixels(data.showcase.images, binarize=False), data.showcase.labels
    assert torch.equal(progress.snapshots[1], model.reconstruct(showcase, labels))
    others = Split(data.train.images, data.train.labels.flip(0))
    _, otherwise = run(
        Data(others, data.validation, data.showcase, binarize=True), make_model(condition="label"), epochs=1
    )
    assert not same_weights(model, otherwise)


# --- History


def test_the_training_columns_are_means_over_images(run, unvalidated, make_model):
    # Weights that do not move and a z that tells nothing: the log-likelihood of constant pixels.
    model = make_model()
    with torch.no_grad():
        model.decoder.output.weight.zero_()
        model.decoder.output.bias.zero_()
    progress, _ = run(unvalidated, model, learning_rate=1e-30, epochs=1)
    assert progress.history[0]["train_reconstruction_nll"] == pytest.approx(64 * math.log(2), abs=1e-4)


def test_the_learning_rate_is_that_of_the_epochs_last_step(run, unvalidated):
    progress, _ = run(unvalidated, schedule="cosine", epochs=4, learning_rate=0.5)
    last_steps = np.array([2, 5, 8, 11])
    expected = 0.25 * (1 + np.cos(np.pi * last_steps / 11))
    # The rates are float32.
    np.testing.assert_allclose([row["learning_rate"] for row in progress.history], expected, atol=1e-7)


# --- The best epoch


def test_the_weights_of_the_best_epoch_are_kept(run, data, unvalidated, validation_elbos):
    validation_elbos(-50.0, -40.0, -45.0, -60.0)
    progress, model = run(data, schedule="constant", epochs=4)
    assert progress.best_epoch == 2
    assert progress.epoch == len(progress.history) == 4
    _, after_two_epochs = run(unvalidated, schedule="constant", epochs=2)
    assert same_weights(model, after_two_epochs)


def test_the_weights_of_the_last_epoch_are_kept_if_the_settings_say_so(run, data, unvalidated, validation_elbos):
    validation_elbos(-100, -90, -95)
    progress, model = run(data, kept_epoch="last")
    _, without = run(unvalidated)
    assert progress.best_epoch == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, without.state_dict()[name])


def test_steps_run_in_training_mode_and_everything_else_in_evaluation_mode(run, data, make_model, monkeypatch):
    model, modes = make_model(), []
    for name in ("model", "reconstruct"):
        method = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *a, method=method: modes.append(model.training) or method(*a))
    run(data, model.eval(), epochs=2)
    # Three steps, a validation of one batch; after the first epoch and for the kept one a snapshot.
    assert modes == [True, True, True, False, False, True, True, True, False, False]
    assert not model.training


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 2), (2, 5), (3, 6)], ids=lambda value: str(value))
def test_patience_stops_after_epochs_without_a_better_one(run, data, validation_elbos, patience, epochs):
    validation_elbos(-50.0, -60.0, -40.0, -45.0, -41.0, -42.0)
    progress, _ = run(data, epochs=6, patience=patience)
    assert progress.epoch == len(progress.history) == epochs
    assert progress.best_epoch == (3 if epochs > 3 else 1)


WARM_UP = (-30.0, -40.0, -60.0, -50.0, -55.0, -56.0)  # an ELBO that falls while the KL's weight rises


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 5), (2, 6)], ids=lambda value: str(value))
def test_patience_and_the_best_epoch_begin_after_the_warm_up(run, data, validation_elbos, patience, epochs):
    validation_elbos(*WARM_UP)
    progress, _ = run(data, epochs=6, patience=patience, kl_warmup_epochs=2)
    assert (progress.epoch, progress.best_epoch) == (epochs, 4)


def test_patience_counts_from_the_warm_ups_end(run, data, validation_elbos):
    validation_elbos(*WARM_UP)
    progress, _ = run(data, epochs=6, patience=2, kl_warmup_epochs=4)
    # Epoch 5 is the first after it, and epoch 6 is one without a better one.
    assert (progress.epoch, progress.best_epoch) == (6, 5)


def test_a_run_that_ends_within_the_warm_up_keeps_its_best_epoch(run, data, validation_elbos):
    validation_elbos(-40.0, -30.0, -60.0)
    progress, _ = run(data, epochs=3, patience=1, kl_warmup_epochs=3)
    assert (progress.epoch, progress.best_epoch) == (3, 2)


@pytest.mark.parametrize("objective", ["iwae", "dreg"])
def test_the_best_epoch_of_a_tighter_bound_is_the_best_by_that_bound(
    run, data, validation_elbos, monkeypatch, objective
):
    bounds = iter((-45.0, -42.0, -39.0, -41.0))
    validation_elbos(-50.0, -40.0, -45.0, -60.0)
    monkeypatch.setattr("vae.training.epoch.mean_bound", lambda *_: next(bounds))
    progress, _ = run(data, epochs=4, objective=objective, particles=3)
    assert progress.best_epoch == 3
    assert [row["validation_bound"] for row in progress.history] == [-45.0, -42.0, -39.0, -41.0]
    assert [row["validation_elbo"] for row in progress.history] == [-50.0, -40.0, -45.0, -60.0]


def test_patience_never_stops_a_run_without_validation(run, unvalidated):
    assert run(unvalidated, patience=1)[0].epoch == 3


# --- Losses that are not finite


@pytest.mark.fault
def test_the_last_good_checkpoint_survives(run, data, monkeypatch, tmp_path):
    break_weights(monkeypatch, 4)
    with pytest.raises(WorkError, match="epoch 2, step 2"):
        run(data, checkpoints=tmp_path, checkpoint_every=1)
    state = checkpoints.read(tmp_path)
    assert state["progress"]["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["tensors"].values())


def test_training_ends_with_the_step_whose_loss_is_not_finite(run, data, monkeypatch):
    seen = break_weights(monkeypatch, 4)
    with pytest.raises(WorkError, match="epoch 1, step 5 of 15"):
        run(data, batch_size=10)
    assert seen == [10] * 5


@pytest.mark.parametrize("validated", [True, False], ids=["with validation", "without"])
def test_weights_ruined_by_the_very_last_step_are_not_handed_on(run, data, unvalidated, validated):
    # The only step has a finite loss; its rate overflows float32, and so do the weights that it leaves.
    with pytest.raises(WorkError, match="epoch 1"):
        run(data if validated else unvalidated, epochs=1, batch_size=150, learning_rate=1e39, schedule="constant")


# --- Those who watch


def test_progress_is_shown_after_every_epoch(run, data):
    seen = []
    progress, _ = run(data, after_epoch=lambda now: seen.append((now.epoch, [*now.history], now.best_epoch)))
    assert [epoch for epoch, *_ in seen] == [1, 2, 3]
    assert [history for _, history, _ in seen] == [progress.history[:epoch] for epoch in (1, 2, 3)]
    assert seen[-1][2] == progress.best_epoch


def test_progress_is_shown_when_a_run_resumes_before_it_continues(run, data, tmp_path):
    run(data, checkpoints=tmp_path, epochs=2, keep_checkpoint=True, **OFTEN)
    seen = []
    run(data, checkpoints=tmp_path, epochs=4, after_epoch=lambda now: seen.append(len(now.history)), **OFTEN)
    assert seen == [2, 3, 4]


def test_a_run_finishes_after_an_epoch_when_asked_and_keeps_the_best_one(run, data, validation_elbos):
    validation_elbos(-50.0, -40.0, -45.0)
    answers = iter((False, False, True))
    progress, model = run(data, epochs=9, finish_now=lambda: next(answers))
    assert (progress.epoch, progress.best_epoch, len(progress.history)) == (3, 2, 3)
    assert all(torch.equal(tensor, progress.best[name]) for name, tensor in model.state_dict().items())
    assert list(progress.snapshots) == [1, 2]


def test_a_run_is_not_asked_before_its_first_epoch_nor_after_its_last(run, data, validation_elbos):
    assert run(data, epochs=3, finish_now=lambda: True)[0].epoch == 1
    asked = []
    run(data, epochs=3, finish_now=lambda: asked.append(1))
    assert len(asked) == 2
    asked.clear()
    validation_elbos(-40.0, -50.0)
    run(data, epochs=3, patience=1, finish_now=lambda: asked.append(1))
    assert len(asked) == 1, "after the first epoch, but not after the one that ended the run"


def test_a_run_that_was_finished_early_continues_to_what_it_would_have_become(run, data, tmp_path):
    keys = {"epochs": 4, "schedule": "one_cycle", "ema_decay": 0.9}
    run(data, checkpoints=tmp_path, finish_now=lambda: True, checkpoint_every=100, **keys)
    continued, continued_model = run(data, checkpoints=tmp_path, **keys)
    whole, whole_model = run(data, **keys)
    assert continued.history == whole.history
    assert same_weights(continued_model, whole_model)
    assert all(torch.equal(images, continued.snapshots[epoch]) for epoch, images in whole.snapshots.items())
