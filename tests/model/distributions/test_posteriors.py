"""Posteriors: their parameters, densities and centers."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from tests.model.distributions.conftest import FEATURES, FLOWS, contexts, perturb, sent, with_context
from vae.model.distributions.posteriors import POSTERIORS, DiagonalNormal, FlowPosterior, FullCovariance, center
from vae.model.distributions.priors import StandardNormal

# float32 sums of at most some ten terms of order 1 to 10.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture
def make_posterior(make_settings):
    """Give a function: a posterior over 3 latent dimensions, for 4 features."""
    return lambda name: POSTERIORS[name](make_settings(model={"flow_widths": [8]}).model, 4, 3)


def head_in_numpy(posterior, features):
    weight, bias = (parameter.detach().double().numpy() for parameter in posterior.head.parameters())
    return features.double().numpy() @ weight.T + bias


def test_the_diagonal_posterior_has_mean_and_logarithm_of_scale_from_one_layer():
    posterior, features, z = DiagonalNormal(4, 3), torch.randn(5, 4), torch.randn(5, 3)
    mean, log_scale = np.split(head_in_numpy(posterior, features), 2, axis=-1)
    q = posterior(features)
    np.testing.assert_allclose(q.mean.detach(), mean, **TOLERANCE)
    np.testing.assert_allclose(q.stddev.detach(), np.exp(log_scale), **TOLERANCE)
    expected = stats.norm.logpdf(z.double().numpy(), mean, np.exp(log_scale)).sum(axis=-1)
    np.testing.assert_allclose(q.log_prob(z).detach(), expected, **TOLERANCE)


def test_a_clipped_log_variance_stays_in_tomczak_and_wellings_range():
    clipped, free = DiagonalNormal(4, 3, clipped=True), DiagonalNormal(4, 3)
    free.load_state_dict(clipped.state_dict())
    features = 20 * torch.randn(50, 4)
    log_variance = 2 * free(features).stddev.log()
    assert log_variance.min() < -6
    assert log_variance.max() > 2
    torch.testing.assert_close(2 * clipped(features).stddev.log(), log_variance.clamp(-6, 2))
    assert torch.equal(clipped(features).mean, free(features).mean)


def test_the_full_posterior_has_mean_and_cholesky_factor_from_one_layer():
    posterior, features, z = FullCovariance(4, 3), torch.randn(5, 4), torch.randn(5, 3)
    outputs = head_in_numpy(posterior, features)
    q = posterior(features)
    for i, (mean, log_diagonal, below) in enumerate(zip(*np.split(outputs, [3, 6], axis=-1), strict=True)):
        factor = np.diag(np.exp(log_diagonal))
        factor[[1, 2, 2], [0, 0, 1]] = below
        np.testing.assert_allclose(q.mean[i].detach(), mean, **TOLERANCE)
        np.testing.assert_allclose(q.covariance_matrix[i].detach(), factor @ factor.T, **TOLERANCE)
        expected = stats.multivariate_normal(mean, factor @ factor.T).logpdf(z[i].double().numpy())
        # Inverting the covariance loses another digit.
        np.testing.assert_allclose(q.log_prob(z)[i].detach(), expected, rtol=1e-4, atol=1e-4)


def test_a_full_covariance_over_one_dimension_is_a_normal():
    posterior, features = FullCovariance(4, 1), torch.randn(5, 4)
    q, (mean, log_scale) = posterior(features), head_in_numpy(posterior, features).T
    np.testing.assert_allclose(q.mean.detach()[:, 0], mean, **TOLERANCE)
    np.testing.assert_allclose(q.stddev.detach()[:, 0], np.exp(log_scale), **TOLERANCE)


@pytest.mark.parametrize("leading", [(5,), (2, 5)])
@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors_keep_leading_dimensions(make_posterior, name, leading):
    q = make_posterior(name)(torch.randn(*leading, 4))
    assert (q.batch_shape, q.event_shape) == (leading, (3,))
    z = q.rsample((7,))
    assert z.shape == (7, *leading, 3)
    assert q.log_prob(z).shape == (7, *leading)


@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors_are_reparameterized(make_posterior, name):
    posterior = make_posterior(name)
    with torch.no_grad():
        for parameter in posterior.parameters():
            # A coupling layer that still is the identity would stop the gradient.
            parameter += 0.1 * torch.randn_like(parameter)
    posterior(torch.randn(5, 4)).rsample().square().sum().backward()
    for parameter in posterior.parameters():
        assert (parameter.grad != 0).any()


def lower(network):
    """Let a network alone compute in bfloat16, whatever surrounds it."""
    forward = network.forward

    def lowered(*args, **keys):
        with torch.autocast("cpu", torch.bfloat16):
            answer = forward(*args, **keys)
        return tuple(part.float() for part in answer) if isinstance(answer, tuple) else answer.float()

    network.forward = lowered


@torch.no_grad()  # with gradients, a CPU computes small products in float32 under autocast too
@pytest.mark.parametrize("name", POSTERIORS)
def test_autocast_lowers_the_networks_alone_not_draws_and_densities(make_posterior, name):
    posterior, features = make_posterior(name), torch.randn(50, 4)
    for parameter in posterior.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    with torch.autocast("cpu", torch.bfloat16):
        q = posterior(features)
        torch.manual_seed(1)
        z = q.rsample((20,))
        own, foreign = q.log_prob(z), posterior(features).log_prob(z.clone())
    exact = posterior(features)
    for network in [module for key, module in posterior.named_modules() if key.endswith(("head", "nn"))]:
        lower(network)
    q = posterior(features)
    torch.manual_seed(1)
    assert z.dtype == own.dtype == foreign.dtype == torch.float32
    drawn = q.rsample((20,))
    torch.testing.assert_close(z, drawn, **TOLERANCE)
    torch.testing.assert_close(own, q.log_prob(drawn), **TOLERANCE)
    # A flow's inverse arrives at slightly other inputs of its networks, of which some are rounded to another bfloat16.
    assert (foreign - posterior(features).log_prob(z.clone())).abs().median() < 2e-5
    assert (q.log_prob(z) - exact.log_prob(z)).abs().max() > 1e-3, "the networks are lowered"


def test_posterior_and_prior_have_the_closed_form_of_kingma_and_welling():
    posterior, features = DiagonalNormal(4, 3), torch.randn(5, 4)
    mean, log_scale = np.split(head_in_numpy(posterior, features), 2, axis=-1)
    # Kingma & Welling 2014, appendix B.
    expected = (mean**2 + np.exp(2 * log_scale) - 1 - 2 * log_scale).sum(axis=-1) / 2
    kl = kl_divergence(posterior(features), StandardNormal(3)())
    np.testing.assert_allclose(kl.detach(), expected, **TOLERANCE)


def test_the_center_of_a_normal_is_its_mean():
    for posterior in (DiagonalNormal(FEATURES, 2), FullCovariance(FEATURES, 2)):
        q = posterior(torch.randn(5, FEATURES))
        assert torch.equal(center(q), q.mean)


@pytest.mark.parametrize("name", with_context)
def test_the_center_of_a_flow_is_where_it_sends_its_bases_mean(name):
    posterior = perturb(FlowPosterior(FEATURES, 4, FLOWS[name][0](4, 3)).double(), 0.3)
    features = contexts(name, 5)
    q = posterior(features)
    assert center(q).shape == (5, 4)
    expected = sent(posterior.flow, posterior.base(features.float().double()).mean, features)
    # The base's parameters are float32 whatever the weights are.
    torch.testing.assert_close(center(q), expected, check_dtype=False, rtol=1e-5, atol=1e-5)
    assert (center(q) - posterior.base(features).mean).abs().max() > 0.1
