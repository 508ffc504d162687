import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, logsumexp

from tests.conftest import as_split
from vae.evaluation import likelihood
from vae.evaluation.likelihood import Scores, metrics, score
from vae.model.bounds import weight_and_elbo_terms
from vae.model.distributions.likelihoods import BernoulliImage, mark_relaxed

pytestmark = pytest.mark.usefixtures("lean")

MEANS = {
    *("test_elbo", "test_nll", "importance_ess", "nll_gain_last_half", "bits_per_dim", "elbo_gap"),
    *("reconstruction_nll", "kl"),
}


@pytest.fixture
def binary_images():
    """Seven random black and white images: uint8 (7, 1, 6, 6)."""
    return torch.randint(2, (7, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)) * 255


@pytest.fixture
def scores(make_model, digits):
    """The scores of 50 digits under a random model."""
    return score(make_model(spread=2), as_split(digits[:50]), samples=150, seed=0)


def log_likelihoods(model, x, z):
    """log p(x | z) for every pair of latents (g, latent_dim) and images (n, c, h, w): float64 (g, n)."""
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
    model, samples = make_model((1, 6, 6), latent_dim=latent_dim), 2950
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


@pytest.mark.parametrize("samples", [1, 2, 101, 250])
@pytest.mark.parametrize("rows", [30, 350, 2000])
def test_the_estimate_is_exact_under_an_exact_posterior_however_it_is_cut(
    make_model, binary_images, monkeypatch, samples, rows
):
    monkeypatch.setitem(likelihood._CHUNK_ROWS, "cpu", rows)
    model = make_model((1, 6, 6))
    with torch.no_grad():
        # z tells nothing of x, and the posterior is the prior: every weight is p(x).
        model.decoder.output.weight.zero_()
        model.posterior.head.weight.zero_()
        model.posterior.head.bias.zero_()
    scores = score(model, as_split(binary_images), samples, seed=0)
    probabilities = expit(model.decoder.output.bias.detach().double().numpy().reshape(1, 6, 6))
    expected = stats.bernoulli.logpmf(binary_images.numpy() // 255, probabilities).sum(axis=(-3, -2, -1))
    # float32 sums of 36 terms of order 1.
    np.testing.assert_allclose(scores.log_likelihood, expected, rtol=1e-5)
    np.testing.assert_allclose(scores.elbo, expected, rtol=1e-5)
    np.testing.assert_allclose(scores.half_log_likelihood, expected if samples > 1 else -np.inf, rtol=1e-5)
    # Equal weights: every draw is worth one, up to the float32 rounding of terms of order 10.
    np.testing.assert_allclose(scores.effective_samples, samples, rtol=1e-5)


def test_every_draw_counts_once_and_no_chunk_is_larger_than_allowed(make_model, binary_images, monkeypatch):
    recorded = []

    def recording(*args):
        terms = weight_and_elbo_terms(*args)
        recorded.append(terms[0])
        return terms

    monkeypatch.setattr(likelihood, "weight_and_elbo_terms", recording)
    monkeypatch.setitem(likelihood._CHUNK_ROWS, "cpu", 300)
    scores = score(make_model((1, 6, 6), spread=2), as_split(binary_images), samples=250, seed=0)
    of_three, of_one = [(100, 3), (100, 3), (50, 3)], [(100, 1), (100, 1), (50, 1)]
    assert [terms.log_weights.shape for terms in recorded] == of_three + of_three + of_one
    batches = [recorded[start : start + 3] for start in (0, 3, 6)]
    weights = np.concatenate(
        [np.concatenate([part.log_weights.double() for part in parts]) for parts in batches], axis=1
    )
    distortions = np.concatenate(
        [np.concatenate([-part.log_likelihood.double() for part in parts]) for parts in batches], axis=1
    )
    # The same numbers in float64 throughout.
    np.testing.assert_allclose(scores.log_likelihood, logsumexp(weights, axis=0) - math.log(250), rtol=1e-12)
    np.testing.assert_allclose(scores.reconstruction_nll, distortions.mean(axis=0), rtol=1e-12)
    first = weights[:125]
    np.testing.assert_allclose(scores.half_log_likelihood, logsumexp(first, axis=0) - math.log(125), rtol=1e-12)
    relative = np.exp(weights - weights.max(axis=0))
    effective = relative.sum(axis=0) ** 2 / (relative**2).sum(axis=0)
    # Differences of logarithms of order 10 to 100.
    np.testing.assert_allclose(scores.effective_samples, effective, rtol=1e-10)


def test_thousands_of_draws_need_no_more_memory_at_once(make_model, binary_images, monkeypatch):
    largest = 0

    def recording(model, guide, draws, images, labels):
        nonlocal largest
        largest = max(largest, draws * len(images))
        return weight_and_elbo_terms(model, guide, draws, images, labels)

    monkeypatch.setattr(likelihood, "weight_and_elbo_terms", recording)
    scores = score(make_model((1, 6, 6)), as_split(binary_images), samples=5001, seed=0)
    assert largest == 7 * 100
    assert (scores.effective_samples <= 5001).all()
    assert (scores.effective_samples > 1).all()


@pytest.mark.parametrize("samples", [1, 2, 3, 300])
def test_one_weight_that_outweighs_all_others_is_one_effective_sample(make_model, binary_images, monkeypatch, samples):
    def lopsided(*args):
        weights, terms = weight_and_elbo_terms(*args)
        nonlocal seen
        # The draws' weights rise by a factor of e^50 each.
        rising = 50 * torch.arange(seen, seen + len(weights.log_ratio))[:, None]
        seen += len(weights.log_ratio)
        zeros = torch.zeros_like(weights.log_ratio)
        return weights._replace(log_likelihood=rising.expand_as(zeros), log_ratio=zeros), terms

    seen = 0
    monkeypatch.setattr(likelihood, "weight_and_elbo_terms", lopsided)
    scores = score(make_model((1, 6, 6)), as_split(binary_images), samples, seed=0)
    np.testing.assert_allclose(scores.effective_samples, 1, rtol=1e-10)
    np.testing.assert_allclose(scores.log_likelihood, 50 * (samples - 1) - math.log(samples), atol=1e-9)
    # Half of the draws end so much lower.
    half = 50 * (samples // 2 - 1) - math.log(samples // 2) if samples > 1 else -math.inf
    np.testing.assert_allclose(scores.half_log_likelihood, half, atol=1e-9)


def test_each_density_is_computed_once(make_model, binary_images, monkeypatch):
    model, calls = make_model((1, 6, 6)), []
    density = BernoulliImage.log_prob
    monkeypatch.setattr(BernoulliImage, "log_prob", lambda self, value: calls.append(1) or density(self, value))
    score(model, as_split(binary_images), samples=250, seed=0)
    assert len(calls) == 3  # chunks of 100, 100 and 50 draws


# --- Chunks


def test_a_chunk_depends_on_no_other(make_model, digits, monkeypatch):
    monkeypatch.setitem(likelihood._CHUNK_ROWS, "cpu", 300)  # of 3 images with 100 draws each
    model = make_model(spread=2)
    together, alone = (score(model, as_split(digits[:n]), samples=250, seed=0) for n in (9, 6))
    for all_images, two_chunks in zip(together, alone, strict=True):
        assert torch.equal(all_images[:6], two_chunks)
    assert not torch.equal(together.kl[:3], together.kl[3:6])


def test_chunks_of_the_same_images_have_draws_of_their_own(make_model, digits, monkeypatch):
    monkeypatch.setitem(likelihood._CHUNK_ROWS, "cpu", 300)
    scores = score(make_model(spread=2), as_split(digits[:3].repeat(2, 1, 1, 1)), samples=250, seed=0)
    assert (scores.log_likelihood[:3] != scores.log_likelihood[3:]).all()


def test_scores_leave_the_callers_random_numbers_alone(make_model, digits):
    model = make_model()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    score(model, as_split(digits[:5]), samples=3, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_few_draws_mean_no_more_than_a_thousand_images_at_once(make_model, digits, monkeypatch):
    seen = []

    def recording(model, guide, draws, images, labels):
        seen.append(len(images))
        return weight_and_elbo_terms(model, guide, draws, images, labels)

    monkeypatch.setattr(likelihood, "weight_and_elbo_terms", recording)
    score(make_model(), as_split(digits[:1500]), samples=1, seed=0)
    assert seen == [1000, 500]


# --- Scores


def test_scores_have_the_documented_shapes_and_types(scores):
    for name in (*Scores._fields, "elbo"):
        values = getattr(scores, name)
        assert values.shape == (50,)
        assert values.dtype == torch.float64
        assert values.device.type == "cpu"


def test_the_kl_is_the_closed_form(make_model, digits):
    model, images = make_model(spread=2), digits[:20]
    scores = score(model, as_split(images), samples=250, seed=0)
    x = images.numpy() / 255
    q = model.encode(torch.from_numpy(x).float())
    mean, scale = q.mean.double().detach().numpy(), q.stddev.double().detach().numpy()
    # float32 networks and sums.
    np.testing.assert_allclose(scores.kl, (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum(-1) / 2, rtol=1e-5)


def test_images_of_a_conditional_model_are_scored_with_their_own_labels(make_model, digits, monkeypatch):
    monkeypatch.setitem(likelihood._CHUNK_ROWS, "cpu", 70)
    model, images, labels = make_model(spread=2, condition="label"), digits[:20], torch.arange(20) % 10
    scores = score(model, as_split(images, labels), samples=10, seed=0)
    q = model.encode(images.float() / 255, labels)
    mean, scale = q.mean.detach(), q.stddev.detach()
    # float32; other batches' products may add up in another order.
    expected = (mean**2 + scale**2 - 1 - 2 * scale.log()).sum(-1) / 2
    torch.testing.assert_close(scores.kl.float(), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, score(model, as_split(images), samples=10, seed=0).kl.float())


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


# --- Metrics


@pytest.mark.parametrize("samples", [1, 2])
def test_metrics_are_exactly_the_documented_ones(make_model, digits, samples):
    scores = score(make_model(), as_split(digits[:5]), samples, seed=0)
    values = metrics(scores, 64, torch.tensor([-1.0]))
    means = MEANS - ({"nll_gain_last_half"} if samples == 1 else set())
    assert set(values) == means | {f"{name}_stderr" for name in means}
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
        "importance_ess": mean(scores.effective_samples),
        "importance_ess_stderr": error(scores.effective_samples),
        "nll_gain_last_half": mean(scores.log_likelihood) - mean(scores.half_log_likelihood),
        "nll_gain_last_half_stderr": error(scores.log_likelihood - scores.half_log_likelihood),
        "bits_per_dim": -mean(scores.log_likelihood) / 64 / math.log(2),
        "bits_per_dim_stderr": error(scores.log_likelihood) / 64 / math.log(2),
        "elbo_gap": -40 - mean(elbo),
        # -30 and -50 have a standard deviation of 10 sqrt(2).
        "elbo_gap_stderr": math.hypot(10, error(elbo)),
        "reconstruction_nll": mean(scores.reconstruction_nll),
        "reconstruction_nll_stderr": error(scores.reconstruction_nll),
        "kl": mean(scores.kl),
        "kl_stderr": error(scores.kl),
    }
    training_elbo = torch.tensor([-30.0, -50.0], dtype=torch.float64)
    assert metrics(scores, 64, training_elbo) == pytest.approx(expected, rel=1e-12)


def test_fair_coins_take_one_bit_a_pixel(make_model, binary_images):
    model = make_model((1, 6, 6), spread=0)  # every logit is 0, and the posterior the prior
    values = metrics(score(model, as_split(binary_images), samples=10, seed=0), 36, torch.zeros(1))
    assert values["bits_per_dim"] == pytest.approx(1, rel=1e-6)
    assert values["nll_gain_last_half"] == pytest.approx(0, abs=1e-5)
    assert values["importance_ess"] == pytest.approx(10, rel=1e-6)


def test_what_is_measured_in_nats_or_bits_is_marked_where_there_is_no_likelihood(scores):
    values = metrics(scores, 64, torch.zeros(1)) | {"reconstruction_mse": 0.1, "prior_mmd": 0.2}
    relaxed = {name for name in mark_relaxed(values, "relaxed_bernoulli") if name.startswith("relaxed_")}
    plain = {"kl", "importance_ess"}
    assert relaxed == {f"relaxed_{name}{end}" for name in MEANS - plain for end in ("", "_stderr")}
    assert mark_relaxed(values, "bernoulli") == values
