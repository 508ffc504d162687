import math
from typing import get_args

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats

from vae.model.distributions.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    BernoulliImage,
    DiscretizedLogistic,
    LogisticPixels,
)
from vae.settings import Model

# float32 sums of at most some ten terms of order 1 to 10.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
VALUES = torch.arange(256) / 255


def test_the_likelihoods_are_those_of_the_settings():
    assert set(LIKELIHOODS) == set(get_args(Model.model_fields["likelihood"].annotation))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_an_image_is_one_event_and_leading_dimensions_are_kept(name):
    likelihood = LIKELIHOODS[name]()
    # Of three channels, so that no one mistakes parameters for channels.
    p = likelihood(torch.randn(5, 6, 3 * likelihood.parameters_per_channel, 2, 4))
    assert (p.batch_shape, p.event_shape) == ((5, 6), (3, 2, 4))
    assert p.mean.shape == (5, 6, 3, 2, 4)
    drawn = p.sample((4,))
    assert drawn.shape == (4, 5, 6, 3, 2, 4)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert p.log_prob(drawn).shape == (4, 5, 6)
    # One image under several decoded latents.
    assert p.log_prob(drawn[0, 0]).shape == (5, 6)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_pixels_are_independent(name):
    likelihood = LIKELIHOODS[name]()
    outputs, x = torch.randn(5, likelihood.parameters_per_channel, 2, 3), torch.randint(256, (5, 1, 2, 3)) / 255
    by_pixel = [
        likelihood(outputs[..., i : i + 1, j : j + 1]).log_prob(x[..., i : i + 1, j : j + 1])
        for i in range(2)
        for j in range(3)
    ]
    torch.testing.assert_close(likelihood(outputs).log_prob(x), sum(by_pixel))


# --- Bernoulli


def test_a_bernoulli_is_an_independent_coin_for_each_pixel():
    logits, x = torch.randn(5, 1, 2, 3), torch.randint(2, (5, 1, 2, 3)).float()
    p = Bernoulli()(logits)
    probabilities = special.expit(logits.double().numpy())
    np.testing.assert_allclose(p.mean, probabilities, **TOLERANCE)
    expected = stats.bernoulli.logpmf(x.numpy(), probabilities).sum(axis=(-3, -2, -1))
    np.testing.assert_allclose(p.log_prob(x), expected, **TOLERANCE)


def test_a_bernoulli_stays_finite_where_the_probability_underflows():
    logits = torch.tensor([[[-200.0, 200.0]]])
    # log(1 - sigmoid(200)) = -200 up to e^-200.
    assert Bernoulli()(logits).log_prob(torch.tensor([[[1.0, 0.0]]])).item() == -400


@pytest.mark.parametrize("name", ["bernoulli", "relaxed_bernoulli"])
def test_gray_pixels_give_the_cross_entropy(name):
    logits, x = torch.randn(5, 1, 2, 3), torch.rand(5, 1, 2, 3)
    gray, probabilities = x.double().numpy(), special.expit(logits.double().numpy())
    expected = (gray * np.log(probabilities) + (1 - gray) * np.log1p(-probabilities)).sum(axis=(-3, -2, -1))
    np.testing.assert_allclose(LIKELIHOODS[name]()(logits).log_prob(x), expected, **TOLERANCE)


@pytest.mark.parametrize("batch_shape", [(5,), (4, 5)])
def test_a_bernoulli_image_is_pytorchs_bernoulli(batch_shape):
    logits = torch.randn(5, 1, 2, 3)
    ours, expected = (
        p.expand(batch_shape) for p in (BernoulliImage(logits), dist.Bernoulli(logits=logits).to_event(3))
    )
    assert (ours.batch_shape, ours.event_shape) == (expected.batch_shape, expected.event_shape)
    torch.testing.assert_close(ours.mean, expected.mean)
    for shape in ((), (6,)):
        torch.manual_seed(1)
        drawn = ours.sample(shape)
        torch.manual_seed(1)
        assert torch.equal(drawn, expected.sample(shape))
        torch.testing.assert_close(ours.log_prob(drawn), expected.log_prob(drawn))


def test_a_bernoulli_images_gradient_is_pixel_minus_probability():
    logits, x = torch.randn(1, 2, 3, requires_grad=True), torch.randint(2, (1, 2, 3)).float()
    BernoulliImage(logits).log_prob(x).backward()
    torch.testing.assert_close(logits.grad, x - logits.detach().sigmoid())


# --- Discretized logistic

# Means within the range and at its ends, scales from the smallest that the decoder can give to far beyond the range.
MEANS = [0.0, 0.001, 0.25, 0.5, 0.7013, 0.999, 1.0]
LOG_SCALES = [-7.0, -5.0, -3.0, -1.0, 0.0, 3.0, 8.0]


def logistic(mean, log_scale):
    return LogisticPixels(torch.tensor(mean), torch.tensor(log_scale))


@pytest.mark.parametrize("log_scale", LOG_SCALES)
@pytest.mark.parametrize("mean", MEANS)
def test_a_discretized_logistic_sums_to_1_over_the_256_values(mean, log_scale):
    log_probabilities = logistic(mean, log_scale).log_prob(VALUES)
    assert log_probabilities.isfinite().all()
    # 256 float32 terms; beside the ends, steps of 1 / 255 are differences of numbers near 1: 5 digits of each remain.
    assert log_probabilities.double().exp().sum().item() == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("log_scale", [-5.0, -3.0, -1.0, 1.0])
@pytest.mark.parametrize("mean", MEANS)
def test_a_discretized_logistic_in_numpy(mean, log_scale):
    edges = (np.arange(257) - 0.5) / 255
    edges[[0, -1]] = -np.inf, np.inf
    # The distribution function from the near side, so that no digits are lost in the far tail.
    below = special.expit((edges - mean) / math.exp(log_scale))
    above = special.expit((mean - edges) / math.exp(log_scale))
    expected = np.log(np.where(edges[:-1] < mean, np.diff(below), -np.diff(above)))
    ours = logistic(mean, log_scale).log_prob(VALUES)
    # float32 digits of the pixel times the precision, at most 150.
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_discretized_logistics_gradients_are_finite_at_all_values():
    mean, log_scale = (torch.tensor(values, requires_grad=True) for values in (MEANS, LOG_SCALES))
    LogisticPixels(mean[:, None, None], log_scale[:, None]).log_prob(VALUES).sum().backward()
    assert mean.grad.isfinite().all()
    assert log_scale.grad.isfinite().all()


def test_extreme_outputs_of_a_decoder_stay_a_distribution():
    corners = torch.tensor([(mean, scale) for mean in (-100.0, -10, 0, 10, 100) for scale in (-100.0, -7, 0, 10)])
    p = DiscretizedLogistic()(corners[..., None, None])
    log_probabilities = p.log_prob(VALUES[:, None, None, None, None])
    assert log_probabilities.isfinite().all()
    # As above.
    np.testing.assert_allclose(log_probabilities.double().exp().sum(0), 1, atol=2e-5)


def test_a_discretized_logistic_takes_a_logit_and_a_logarithm_of_scale():
    outputs = torch.randn(5, 2, 2, 3)
    p = DiscretizedLogistic()(outputs).base_dist
    torch.testing.assert_close(p.loc, outputs[:, :1].sigmoid())
    assert torch.equal(p.log_scale, outputs[:, 1:])
    assert torch.equal(DiscretizedLogistic()(outputs - 20).base_dist.log_scale, torch.full((5, 1, 2, 3), -7.0))


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, -2.0), (0.3, -3.0), (0.5, 0.0), (0.9, -1.0), (0.25, -7.0)])
def test_draws_of_a_discretized_logistic_have_its_probabilities(mean, log_scale):
    p, n = logistic(mean, log_scale), 20_000
    drawn = p.sample((n,))
    probabilities = p.log_prob(VALUES).exp()
    # The 256 values as the data have them, to the last bit.
    assert torch.isin(drawn, VALUES).all()
    # Five standard errors of the means of x, of x^2 and of how often both ends come.
    for function in (lambda x: x, torch.square, lambda x: (x == 0).float(), lambda x: (x == 1).float()):
        values, expected = function(drawn).double(), (function(VALUES) * probabilities).sum().item()
        error = math.sqrt(max((function(VALUES) ** 2 * probabilities).sum().item() - expected**2, 0) / n)
        assert values.mean().item() == pytest.approx(expected, abs=5 * error + 1e-5)


def test_a_discretized_logistics_mean_is_within_the_range():
    assert torch.equal(LogisticPixels(torch.tensor([-0.1, 0.3, 1.1]), torch.zeros(3)).mean, torch.tensor([0.0, 0.3, 1]))


@pytest.mark.parametrize("mean", [0.1, 0.5, 0.8])
def test_a_narrow_logistics_mean_is_the_mean_of_its_values(mean):
    p = logistic(mean, -5.0)
    # Rounding to the 256 values moves the mean by less than a tenth of a step at this scale.
    assert p.mean.item() == pytest.approx((VALUES * p.log_prob(VALUES).exp()).sum().item(), abs=4e-4)


# --- The output to begin with


@pytest.fixture
def images(digits):
    """Images with values in [0, 1]; some pixels are the same in all of them, or white in one."""
    images = digits.float() / 255
    images[..., 0, 0], images[..., 0, 1] = 0, 1
    images[0, 0, 0, 0] = 1
    return images


@pytest.mark.parametrize(
    ("name", "off"),
    [
        # Clipped to within 0.001 of 0 and 1.
        ("bernoulli", 0.0011),
        ("relaxed_bernoulli", 0.0011),
        ("continuous_bernoulli", 0.011),  # within 0.01
        ("discretized_logistic", 0.0011),
    ],
)
def test_a_likelihood_begins_at_the_mean_image(images, name, off):
    likelihood = LIKELIHOODS[name]()
    output = likelihood.initial_output(images)
    assert output.shape == (likelihood.parameters_per_channel, 8, 8)
    mean, begun = images.mean(0), likelihood(output).mean
    assert (begun - mean).abs().max() < off
    inside = (mean > off) & (mean < 1 - off)
    # float32 rounding, of a bisection where the likelihood is a continuous Bernoulli.
    torch.testing.assert_close(begun[inside], mean[inside], rtol=0, atol=1e-5)


def test_a_bernoulli_begins_at_the_clipped_logit():
    means = torch.tensor([[0.0, 0.0005, 0.25], [0.5, 0.9995, 1.0]])
    expected = special.logit(np.clip(means.double().numpy(), 0.001, 0.999))
    np.testing.assert_allclose(Bernoulli.initial_output(means[None]), expected, **TOLERANCE)


def test_a_discretized_logistic_begins_with_the_spread_of_each_pixel(images):
    p = DiscretizedLogistic()(DiscretizedLogistic.initial_output(images)).base_dist
    # A logistic's standard deviation is pi / sqrt(3) times its scale; the least scale is 0.02.
    expected = (images.std(0) * math.sqrt(3) / math.pi).clamp(min=0.02)
    torch.testing.assert_close(p.log_scale.exp(), expected)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_beginning_at_the_mean_image_is_better_than_at_0(images, name):
    likelihood = LIKELIHOODS[name]()
    pixels = images.round() if name == "bernoulli" else images
    output = likelihood.initial_output(pixels)
    begun, zero = (likelihood(outputs).log_prob(pixels).mean() for outputs in (output, torch.zeros_like(output)))
    assert begun > zero + 5
