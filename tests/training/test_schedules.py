import math

import numpy as np
import pytest
import torch

from vae.training.schedules import kl_weights, learning_rates


# Expected values are float64, the rates float32: 24 bits, some 1e-7 of the peak.
def test_one_cycle_rises_from_a_25th_to_the_peak_and_falls_to_0(make_train):
    rates = learning_rates(make_train(schedule="one_cycle", learning_rate=0.5), 1001).numpy()
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates[[0, 150, 300, 650, 1000]], [0.02, 0.26, 0.5, 0.25, 0], atol=1e-7)
    assert (np.diff(rates[:301]) > 0).all()
    assert (np.diff(rates[300:]) < 0).all()


def test_one_cycle_agrees_with_torch(make_train):
    steps, peak = 2000, 0.5
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, cycle_momentum=False)
    expected = []
    for _ in range(steps):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    # Torch's peak lies up to one step away from ours and its end at 4e-6 of the peak: one step on the steepest slope.
    tolerance = peak * math.pi / 2 / (0.3 * steps)
    rates = learning_rates(make_train(schedule="one_cycle", learning_rate=peak), steps)
    np.testing.assert_allclose(rates, expected, atol=tolerance)


def test_cosine_falls_from_the_peak_to_0(make_train):
    rates = learning_rates(make_train(schedule="cosine", learning_rate=0.5), 1001).numpy()
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(1001) / 1000))
    np.testing.assert_allclose(rates, expected, atol=1e-7)


def test_iwae_has_eight_stages_each_three_times_as_long_as_the_one_before(make_train):
    rates = learning_rates(make_train(schedule="iwae", learning_rate=0.001), 2 * 3280).numpy()
    # Burda et al. 2015, section 5: 3^i passes with the rate 0.001 * 10^(-i / 7), i = 0 to 7; rounded to 0.00001.
    expected = np.concatenate([np.full(2 * 3**i, round(0.001 * 10 ** (-i / 7), 5)) for i in range(8)])
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_constant_is_constant(make_train):
    rates = learning_rates(make_train(schedule="constant", learning_rate=0.5), 7)
    np.testing.assert_array_equal(rates, np.full(7, 0.5, dtype=np.float32))


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "iwae", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_rates_of_the_shortest_runs_are_within_bounds(make_train, schedule, steps):
    rates = learning_rates(make_train(schedule=schedule, learning_rate=0.5), steps).numpy()
    assert rates.shape == (steps,)
    assert ((rates >= 0) & (rates <= 0.5)).all()
    assert rates[0] > 0


def test_kl_weights_rise_linearly_and_then_stay_at_1(make_train):
    weights = kl_weights(make_train(kl_warmup_epochs=2), steps=6, steps_per_epoch=2)
    np.testing.assert_array_equal(weights, [0.25, 0.5, 0.75, 1, 1, 1])


def test_kl_weights_that_rise_by_epoch_are_constant_within_one(make_train):
    settings = make_train(kl_warmup_epochs=3, kl_warmup_by="epoch", beta=6)
    np.testing.assert_array_equal(kl_weights(settings, steps=10, steps_per_epoch=2), [2, 2, 4, 4, *[6] * 6])


def test_kl_weights_rise_to_beta(make_train):
    weights = kl_weights(make_train(kl_warmup_epochs=1, beta=4), steps=4, steps_per_epoch=2)
    np.testing.assert_array_equal(weights, [2, 4, 4, 4])


def test_without_warm_up_the_kl_always_counts_in_full(make_train):
    np.testing.assert_array_equal(kl_weights(make_train(kl_warmup_epochs=0), 4, 2), np.ones(4))
