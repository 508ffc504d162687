import math
import signal
import threading

import numpy as np
import pytest
import torch

from tests.conftest import as_split
from vae.data.images import Split, pixels
from vae.errors import InputError, WorkError
from vae.model import kernels
from vae.seeds import derive
from vae.training import checkpoints, loop
from vae.training.data import Data
from vae.training.loop import train
from vae.training.validation import mean_bound, mean_terms

pytestmark = pytest.mark.usefixtures("lean")

SPLITS = ("train", "validation")
HANDLED = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def data(digits):
    """150 digits to train on, 100 to validate, 5 to show."""
    return Data(as_split(digits[:150]), as_split(digits[150:250]), as_split(digits[-5:]), binarize=True)


@pytest.fixture
def unvalidated(data):
    return Data(data.train, None, data.showcase, binarize=True)


@pytest.fixture
def run(make_model, make_train):
    """Give a function: a run of a model (a new one by default) from the same seed, and the model that it leaves."""

    def make(data, model=None, checkpoints=None, **keys):
        model = model or make_model()
        torch.manual_seed(0)
        return train(model, data, make_train(**keys), checkpoints), model

    return make


@pytest.fixture
def validation_elbos(monkeypatch):
    """Give a function: let validation find these ELBOs, epoch by epoch."""

    def script(*values):
        remaining = iter(values)
        monkeypatch.setattr("vae.training.epoch.mean_terms", lambda *_: (next(remaining), 0.0))

    return script


def break_weights(monkeypatch, at):
    """Make the weights NaN before the step of this number, counted from 0 over all epochs."""
    call, seen = loop.Step.__call__, []

    def breaking(step, size):
        if len(seen) == at:
            step.parameters[0].detach().fill_(math.nan)
        seen.append(size)
        call(step, size)

    monkeypatch.setattr(loop.Step, "__call__", breaking)


def same_weights(left, right):
    return all(torch.equal(tensor, right.state_dict()[name]) for name, tensor in left.state_dict().items())


def broken(model):
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    return model


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
    def labelled(start, stop):
        return Split(digits[start:stop], torch.arange(stop - start) % 10)

    data = Data(labelled(0, 150), labelled(150, 250), labelled(250, 255), binarize=True)
    progress, model = run(data, make_model(condition="label"), epochs=1)
    showcase, labels = pixels(data.showcase.images, binarize=False), data.showcase.labels
    assert torch.equal(progress.snapshots[1], model.reconstruct(showcase, labels))
    others = Split(data.train.images, data.train.labels.flip(0))
    _, otherwise = run(
        Data(others, data.validation, data.showcase, binarize=True), make_model(condition="label"), epochs=1
    )
    assert not same_weights(model, otherwise)


# --- History


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


def test_the_training_columns_are_means_over_images(run, unvalidated, make_model):
    # Weights that do not move and a z that tells nothing: the log-likelihood of constant pixels.
    model = make_model()
    with torch.no_grad():
        model.decoder.output.weight.zero_()
        model.decoder.output.bias.zero_()
    progress, _ = run(unvalidated, model, learning_rate=1e-30, epochs=1)
    assert progress.history[0]["train_reconstruction_nll"] == pytest.approx(64 * math.log(2), abs=1e-4)


def test_the_validation_columns_judge_the_weights_after_the_epoch(run, data, make_train):
    progress, model = run(data, epochs=1)
    log_likelihood, kl = mean_terms(model, data.validation, derive(make_train().seed, "train.validation"))
    row = progress.history[0]
    assert row["validation_reconstruction_nll"] == round(-log_likelihood, 4)
    assert row["validation_kl"] == round(kl, 4)
    assert row["validation_elbo"] == round(log_likelihood - kl, 4)


def test_the_learning_rate_is_that_of_the_epochs_last_step(run, unvalidated):
    progress, _ = run(unvalidated, schedule="cosine", epochs=4, learning_rate=0.5)
    last_steps = np.array([2, 5, 8, 11])
    expected = 0.25 * (1 + np.cos(np.pi * last_steps / 11))
    # The rates are float32.
    np.testing.assert_allclose([row["learning_rate"] for row in progress.history], expected, atol=1e-7)


def test_every_epoch_is_reported(run, data, capsys):
    progress, _ = run(data)
    last = progress.history[-1]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1] == f"epoch 3/3: ELBO {last['train_elbo']:.2f}, validation {last['validation_elbo']:.2f}"


# --- The best epoch


def test_without_validation_the_best_epoch_is_the_last(run, unvalidated):
    progress, model = run(unvalidated, schedule="constant")
    assert progress.best_epoch == progress.epoch == 3
    for name, tensor in model.state_dict().items():
        assert torch.equal(progress.best[name], tensor)
    # A fourth epoch moves the weights on.
    _, longer = run(unvalidated, schedule="constant", epochs=4)
    assert not same_weights(model, longer)


def test_the_weights_of_the_best_epoch_are_kept(run, data, unvalidated, validation_elbos):
    validation_elbos(-50.0, -40.0, -45.0, -60.0)
    progress, model = run(data, schedule="constant", epochs=4)
    assert progress.best_epoch == 2
    assert progress.epoch == len(progress.history) == 4
    _, after_two_epochs = run(unvalidated, schedule="constant", epochs=2)
    assert same_weights(model, after_two_epochs)


def test_of_equal_epochs_the_first_is_the_best(run, data, validation_elbos):
    validation_elbos(-50.0, -40.0, -40.0)
    assert run(data)[0].best_epoch == 2


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


def test_patience_never_stops_a_run_without_validation(run, unvalidated):
    assert run(unvalidated, patience=1)[0].epoch == 3


# --- Snapshots


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


# --- Losses that are not finite


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


def test_the_last_good_checkpoint_survives(run, data, monkeypatch, tmp_path):
    break_weights(monkeypatch, 4)
    with pytest.raises(WorkError, match="epoch 2, step 2"):
        run(data, checkpoints=tmp_path, checkpoint_every=1)
    state = checkpoints.read(tmp_path)
    assert state["progress"]["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in state["tensors"].values())


@pytest.mark.parametrize("validated", [True, False], ids=["with validation", "without"])
def test_weights_ruined_by_the_very_last_step_are_not_handed_on(run, data, unvalidated, validated):
    # The only step has a finite loss; its rate overflows float32, and so do the weights that it leaves.
    with pytest.raises(WorkError, match="epoch 1"):
        run(data if validated else unvalidated, epochs=1, batch_size=150, learning_rate=1e39, schedule="constant")


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_validation_loss_that_is_not_finite_stops_the_run(run, data, validation_elbos, epoch, value):
    validation_elbos(*[-50.0] * (epoch - 1), value, -45.0, -40.0)
    with pytest.raises(WorkError, match=f"epoch {epoch}"):
        run(data)


# --- The process around it


def handlers():
    return [signal.getsignal(number) for number in HANDLED]


def test_signal_handlers_are_put_back_after_a_run(run, data):
    before = handlers()
    run(data, epochs=1)
    assert handlers() == before


def test_signal_handlers_are_put_back_after_a_failure(run, data, make_model):
    before = handlers()
    with pytest.raises(WorkError):
        run(data, broken(make_model()), epochs=1)
    assert handlers() == before


def test_it_also_trains_in_a_thread_which_gets_no_signals(run, data):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(data, epochs=1)))
    thread.start()
    thread.join()
    expected, model = run(data, epochs=1)
    assert results[0][0].history == expected.history
    assert same_weights(results[0][1], model)
