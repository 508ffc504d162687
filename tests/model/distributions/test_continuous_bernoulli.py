import numpy as np
import pytest
import torch

from vae.model.distributions.continuous_bernoulli import (
    ContinuousBernoulliImage,
    log_partition,
    logit_of_mean,
    mean,
)
from vae.model.distributions.likelihoods import ContinuousBernoulli

SIZES = (1e-3, 0.1, 0.2999, 0.3001, 1, 5, 15, 17, 30, 60, 100, 300)
LOGITS = np.array([-size for size in reversed(SIZES)] + [0.0, *SIZES])
NOT_0 = LOGITS[LOGITS != 0]
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def tolerance(dtype):
    """Float32 loses two digits just beyond the series; the series leave out 1e-8, the closed forms here lose 1e-10."""
    return {"rtol": 1e-5, "atol": 5e-6} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-8}


def exact_log_partition(a):
    """Log of (exp(a) - 1) / a, which no exp(a) overflows."""
    size = np.abs(a)
    return np.maximum(a, 0) + np.log(-np.expm1(-size) / size)


def exact_mean(a):
    return 0.5 + 1 / np.tanh(a / 2) / 2 - 1 / a


def exact_variance(a):
    return 1 / a**2 - 1 / (4 * np.sinh(a / 2) ** 2)


def image(logits, dtype):
    """One image of one pixel for each logit, and the logits as a leaf: (n,)."""
    leaf = torch.tensor(logits, dtype=dtype, requires_grad=True)
    return ContinuousBernoulliImage(leaf[:, None, None, None]), leaf


@TYPES
def test_the_log_partition_is_that_of_the_closed_form(dtype):
    found = log_partition(torch.tensor(NOT_0, dtype=dtype))
    # The logits themselves are rounded to float32: relative to them too.
    np.testing.assert_allclose(found, exact_log_partition(NOT_0), **tolerance(dtype))
    assert log_partition(torch.zeros(1)).item() == 0


@TYPES
def test_mean_and_variance_are_those_of_the_closed_forms(dtype):
    p, _ = image(NOT_0, dtype)
    np.testing.assert_allclose(p.mean.detach().flatten(), exact_mean(NOT_0), **tolerance(dtype))
    np.testing.assert_allclose(p.variance.detach().flatten(), exact_variance(NOT_0), **tolerance(dtype))
    p, _ = image([0.0], dtype)
    assert p.mean.item() == 0.5
    assert p.variance.item() == pytest.approx(1 / 12)


def test_the_mean_keeps_moving_beyond_a_logit_of_15():
    # 1 / 60 up to exp(-60): torch's own distribution sticks at 0.0627.
    assert mean(torch.tensor([-60.0])).item() == pytest.approx(1 / 60)


@TYPES
@pytest.mark.parametrize("x", [0.0, 0.05, 0.5, 1.0])
def test_the_densitys_gradient_is_pixel_minus_mean(dtype, x):
    p, leaf = image(LOGITS, dtype)
    p.log_prob(torch.tensor(x, dtype=dtype)).sum().backward()
    expected = x - np.where(LOGITS == 0, 0.5, exact_mean(np.where(LOGITS == 0, 1, LOGITS)))
    np.testing.assert_allclose(leaf.grad, expected, **tolerance(dtype))


@TYPES
def test_the_means_gradient_is_the_variance(dtype):
    p, leaf = image(NOT_0, dtype)
    p.mean.sum().backward()
    np.testing.assert_allclose(leaf.grad, exact_variance(NOT_0), **tolerance(dtype))


@TYPES
@pytest.mark.parametrize("logit", LOGITS)
def test_the_density_integrates_to_1_and_has_its_mean(dtype, logit):
    # Gauss-Legendre on 100 equal parts, each with a factor of at most exp(3) from end to end: exact to float64.
    nodes, weights = np.polynomial.legendre.leggauss(10)
    x = ((np.arange(100)[:, None] + (nodes + 1) / 2) / 100).ravel()
    weights = np.tile(weights / 200, 100)
    p, _ = image([logit], dtype)
    points = torch.tensor(x, dtype=dtype)[:, None, None, None, None]
    density = p.log_prob(points).detach().double().exp().squeeze(-1).numpy()
    # float32 digits of an exponent of up to 300.
    off = 5e-5 if dtype == torch.float32 else 1e-8
    assert weights @ density == pytest.approx(1, abs=off)
    assert weights @ (x * density) == pytest.approx(p.mean.item(), abs=off)


@pytest.mark.parametrize("logit", [-300.0, -60, -5, -0.1, 0, 1e-8, 0.31, 2, 20, 300])
def test_draws_have_the_mean_and_the_variance(logit):
    n = 50_000
    p, _ = image([logit], torch.float32)
    torch.manual_seed(1)
    drawn = p.sample((n,)).flatten().double()
    assert ((drawn >= 0) & (drawn <= 1)).all()
    # Five standard errors, of the variance's estimate by the draws' fourth moment.
    error = p.variance.sqrt().item() / n**0.5
    assert drawn.mean().item() == pytest.approx(p.mean.item(), abs=5 * error)
    squares = (drawn - drawn.mean()).square()
    assert squares.mean().item() == pytest.approx(p.variance.item(), abs=5 * squares.std().item() / n**0.5)


def test_draws_have_the_distribution_function():
    p, _ = image([-7.0], torch.float32)
    torch.manual_seed(1)
    drawn = np.sort(p.sample((50_000,)).detach().flatten().numpy())
    levels = np.expm1(-7 * drawn) / np.expm1(-7)
    # Kolmogorov-Smirnov: 2 / sqrt(n) is passed with probability 0.0007.
    assert np.abs(levels - (np.arange(50_000) + 0.5) / 50_000).max() < 2 / 50_000**0.5


@pytest.mark.parametrize("target", [0.01, 0.0167, 0.2, 0.5, 0.71, 0.99])
def test_the_logit_of_a_mean_has_that_mean(target):
    logit = logit_of_mean(torch.tensor([target], dtype=torch.float64))
    assert mean(logit).item() == pytest.approx(target, abs=1e-9)
    # In float32 the mean has 7 digits.
    assert mean(logit_of_mean(torch.tensor([target]))).item() == pytest.approx(target, abs=1e-6)


def test_the_logits_of_black_and_white_are_clipped_at_0_01():
    black, white = ContinuousBernoulli.initial_output(torch.tensor([[0.0, 1.0]]))
    assert (black.item(), white.item()) == pytest.approx((-100, 100), rel=1e-3)


def test_an_expanded_batch_is_the_same_images():
    logits = torch.randn(3, 1, 2, 4) * 20
    p, x = ContinuousBernoulliImage(logits), torch.rand(5, 3, 1, 2, 4)
    expanded = p.expand((5, 3))
    assert (expanded.batch_shape, expanded.event_shape) == ((5, 3), (1, 2, 4))
    assert torch.equal(expanded.log_prob(x), p.log_prob(x))
    assert p.expand((3,)) is p
