import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, logsumexp

from tests.conftest import as_split
from vae.evaluation import likelihood
from vae.evaluation.likelihood import active_units, mean_and_error, metrics, score
from vae.objectives import weight_and_elbo_terms

pytestmark = pytest.mark.usefixtures("lean")

METRICS = {
    "test_elbo",
    "test_elbo_stderr",
    "test_nll",
    "test_nll_stderr",
    "reconstruction_nll",
    "reconstruction_mse",
    "kl",
    "active_units",
}


@pytest.fixture
def binary_images():
    """Seven random black and white images: uint8 (7, 6, 6)."""
    return torch.randint(2, (7, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)) * 255


@pytest.fixture
def scores(make_model, digits):
    """The scores of 50 digits under a random model."""
    return score(make_model(spread=2), as_split(digits[:50]), samples=150, seed=0)


def log_likelihoods(model, x, z):
    """log p(x | z) for every pair of latents (g, latent_dim) and images (n, h, w): float64 (g, n)."""
    logits = model.decoder(torch.from_numpy(z).float()).detach().double().numpy().reshape(len(z), -1)
    return logits @ x.reshape(len(x), -1).T - np.logaddexp(0, logits).sum(axis=-1, keepdims=True)


def integrate(model, x, samples):
    """Integrate over z with the trapezoidal rule on [-8, 8] in each dimension.

    Gives log p(x), the expected log-likelihood under the posterior, and the standard errors that their estimates
    from `samples` draws have; float64 (n,) each.
    """
    q = model.encode(torch.from_numpy(x).float())
    mean, scale = q.mean.detach().double().numpy(), q.stddev.detach().double().numpy()
    axis, step = np.linspace(-8, 8, 161, retstep=True)
    z = np.stack(np.meshgrid(*[axis] * model.latent_dim, indexing="ij"), axis=-1).reshape(-1, model.latent_dim)
    cell = step**model.latent_dim
    log_q = stats.norm.logpdf(z[:, None], mean, scale).sum(axis=-1)
    log_likelihood = log_likelihoods(model, x, z)
    log_joint = log_likelihood + stats.norm.logpdf(z).sum(axis=-1)[:, None]
    np.testing.assert_allclose(np.exp(log_q).sum(axis=0) * cell, 1, rtol=1e-6)

    log_evidence = logsumexp(log_joint, axis=0) + math.log(cell)
    second_moment = logsumexp(2 * log_joint - log_q, axis=0) + math.log(cell)
    evidence_error = np.sqrt((np.exp(second_moment - 2 * log_evidence) - 1) / samples)
    expected = (np.exp(log_q) * log_likelihood).sum(axis=0) * cell
    variance = (np.exp(log_q) * (log_likelihood - expected) ** 2).sum(axis=0) * cell
    return log_evidence, expected, evidence_error, np.sqrt(variance / samples)


@pytest.mark.parametrize("rows", [50, 350, 2000], ids=["an image at a time", "3 images at a time", "all at once"])
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_estimates_agree_with_integrals_over_the_latent_space(
    make_model, binary_images, monkeypatch, latent_dim, rows, device
):
    monkeypatch.setitem(likelihood._CHUNK_ROWS, device.type, rows)
    model, samples = make_model((6, 6), latent_dim=latent_dim), 2950
    with torch.no_grad():
        model.decoder.output.weight *= 4
        # As wide as the prior, so that the weights are bounded and their mean has a standard error.
        model.posterior.head.weight[latent_dim:] = 0
        model.posterior.head.bias[latent_dim:] = 0
    evidence, expected, evidence_error, expected_error = integrate(model, binary_images.numpy() / 255, samples)
    scores = score(model.to(device), as_split(binary_images.to(device)), samples, seed=0)
    # Four standard errors: seven images all keep within them with 99.96 % probability.
    assert (evidence_error < 0.05).all()
    assert (np.abs(scores.log_likelihood.numpy() - evidence) < 4 * evidence_error).all()
    assert (np.abs(-scores.reconstruction_nll.numpy() - expected) < 4 * expected_error).all()


@pytest.mark.parametrize("samples", [1, 100, 101, 250])
@pytest.mark.parametrize("rows", [1, 350, 2000])
def test_the_estimate_is_exact_under_an_exact_posterior_however_it_is_cut(
    make_model, binary_images, monkeypatch, samples, rows
):
    monkeypatch.setitem(likelihood._CHUNK_ROWS, "cpu", rows)
    model = make_model((6, 6))
    with torch.no_grad():
        # z tells nothing of x, and the posterior is the prior: every weight is p(x).
        model.decoder.output.weight.zero_()
        model.posterior.head.weight.zero_()
        model.posterior.head.bias.zero_()
    scores = score(model, as_split(binary_images), samples, seed=0)
    probabilities = expit(model.decoder.output.bias.detach().double().numpy().reshape(6, 6))
    expected = stats.bernoulli.logpmf(binary_images.numpy() // 255, probabilities).sum(axis=(-2, -1))
    # float32 sums of 36 terms of order 1.
    np.testing.assert_allclose(scores.log_likelihood, expected, rtol=1e-5)
    np.testing.assert_allclose(scores.elbo, expected, rtol=1e-5)


def test_every_draw_counts_once_and_no_chunk_is_larger_than_allowed(make_model, binary_images, monkeypatch):
    recorded = []

    def recording(*args):
        terms = weight_and_elbo_terms(*args)
        recorded.append(terms[0])
        return terms

    monkeypatch.setattr(likelihood, "weight_and_elbo_terms", recording)
    monkeypatch.setitem(likelihood._CHUNK_ROWS, "cpu", 300)
    scores = score(make_model((6, 6), spread=2), as_split(binary_images), samples=250, seed=0)
    of_three, of_one = [(100, 3), (100, 3), (50, 3)], [(100, 1), (100, 1), (50, 1)]
    assert [terms.elbo.shape for terms in recorded] == of_three + of_three + of_one
    batches = [recorded[start : start + 3] for start in (0, 3, 6)]
    weights = np.concatenate([np.concatenate([part.elbo.double() for part in parts]) for parts in batches], axis=1)
    distortions = np.concatenate(
        [np.concatenate([-part.log_likelihood.double() for part in parts]) for parts in batches], axis=1
    )
    # The same numbers in float64 throughout.
    np.testing.assert_allclose(scores.log_likelihood, logsumexp(weights, axis=0) - math.log(250), rtol=1e-12)
    np.testing.assert_allclose(scores.reconstruction_nll, distortions.mean(axis=0), rtol=1e-12)


def test_scores_have_the_documented_shapes_and_types(scores):
    for name in ("log_likelihood", "reconstruction_nll", "kl", "mse", "elbo"):
        values = getattr(scores, name)
        assert values.shape == (50,)
        assert values.dtype == torch.float64
        assert values.device.type == "cpu"
    assert scores.mean.shape == (50, 3)
    assert scores.mean.dtype == torch.float32


def test_kl_and_squared_error_are_those_of_the_posterior_mean(make_model, digits):
    model, images = make_model(spread=2), digits[:20]
    scores = score(model, as_split(images), samples=250, seed=0)
    x = images.numpy() / 255
    q = model.encode(torch.from_numpy(x).float())
    mean, scale = q.mean.double().detach().numpy(), q.stddev.double().detach().numpy()
    logits = model.decoder(q.mean)[:, 0].detach().double().numpy()
    # float32 networks and sums.
    np.testing.assert_allclose(scores.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(scores.kl, (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum(-1) / 2, rtol=1e-5)
    np.testing.assert_allclose(scores.mse, ((expit(logits) - x) ** 2).mean(axis=(-2, -1)), rtol=1e-5)


def test_images_of_a_conditional_model_are_scored_with_their_own_labels(make_model, digits, monkeypatch):
    monkeypatch.setitem(likelihood._CHUNK_ROWS, "cpu", 70)
    model, images, labels = make_model(spread=2, condition="label"), digits[:20], torch.arange(20) % 10
    scores = score(model, {"images": images, "labels": labels}, samples=10, seed=0)
    x = images.float() / 255
    # Other batches' products may add up in another order.
    torch.testing.assert_close(scores.mean, model.represent(x, labels).detach())
    squared_error = (model.reconstruct(x, labels).detach() - x).square().mean((-2, -1))
    torch.testing.assert_close(scores.mse.float(), squared_error)
    assert not torch.allclose(scores.mean, model.represent(x, labels.flip(0)))


def test_the_elbo_is_below_the_log_likelihood(scores):
    assert (scores.elbo.mean() < scores.log_likelihood.mean()).item()


def test_more_draws_raise_the_bound(make_model, digits):
    model = make_model(spread=4)
    bounds = [score(model, as_split(digits[:200]), samples, seed=0).log_likelihood.mean() for samples in (1, 10, 200)]
    # Gaps of several nats here; the mean of 200 images with one draw each has a standard error below one.
    assert bounds[0] + 1 < bounds[1]
    assert bounds[1] + 0.5 < bounds[2]


def test_the_seed_fixes_the_scores(make_model, digits):
    model = make_model()
    first, again, other = (score(model, as_split(digits[:20]), 50, seed) for seed in (0, 0, 1))
    for left, right in zip(first, again, strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(first.log_likelihood, other.log_likelihood)


def test_metrics_are_exactly_the_documented_ones(scores):
    values = metrics(scores)
    assert set(values) == METRICS
    assert all(math.isfinite(value) for value in values.values())


def test_metrics_are_means_over_images_with_standard_errors(scores):
    def mean(values):
        return values.numpy().mean()

    def error(values):
        return values.numpy().std(ddof=1) / math.sqrt(50)

    elbo = -scores.reconstruction_nll - scores.kl
    expected = {
        "test_elbo": mean(elbo),
        "test_elbo_stderr": error(elbo),
        "test_nll": -mean(scores.log_likelihood),
        "test_nll_stderr": error(scores.log_likelihood),
        "reconstruction_nll": mean(scores.reconstruction_nll),
        "reconstruction_mse": mean(scores.mse),
        "kl": mean(scores.kl),
        "active_units": 3,
    }
    assert metrics(scores) == pytest.approx(expected, rel=1e-12)


def test_mean_and_error_by_hand():
    # Deviations -3, -1, 1, 3: variance 20 / 3, over 4 values.
    assert mean_and_error(torch.tensor([1.0, 3.0, 5.0, 7.0])) == pytest.approx((4, math.sqrt(20 / 3 / 4)))


def test_a_single_value_has_no_error():
    assert mean_and_error(torch.tensor([2.5])) == (2.5, 0)


def test_dimensions_are_active_above_a_variance_of_a_hundredth():
    deviations = torch.tensor([-1.0, 1.0]).repeat(500)
    means = torch.stack([7 + 0 * deviations, 0.099 * deviations, 0.102 * deviations, deviations], dim=1)
    assert active_units(means) == 2


def test_a_latent_dimension_that_ignores_the_image_is_not_active(make_model, digits):
    model = make_model(spread=2, latent_dim=5)
    assert metrics(score(model, as_split(digits[:100]), 10, seed=0))["active_units"] == 5
    with torch.no_grad():
        model.posterior.head.weight[[0, 3]] = 0
    assert metrics(score(model, as_split(digits[:100]), 10, seed=0))["active_units"] == 3
