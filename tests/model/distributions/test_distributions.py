from typing import get_args

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from vae.model.distributions.normal import NormalVector
from vae.model.distributions.posteriors import POSTERIORS, DiagonalNormal, FullCovariance
from vae.model.distributions.priors import PRIORS, StandardNormal
from vae.settings import Model

# float32 sums of at most some ten terms of order 1 to 10.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture
def make_posterior(make_settings):
    """Give a function: a posterior over 3 latent dimensions, for 4 features."""
    return lambda name: POSTERIORS[name](make_settings(model={"flow_widths": [8]}).model, 4, 3)


def head_in_numpy(posterior, features):
    weight, bias = (parameter.detach().double().numpy() for parameter in posterior.head.parameters())
    return features.double().numpy() @ weight.T + bias


def test_priors_and_posteriors_are_those_of_the_settings():
    assert set(PRIORS) == set(get_args(Model.model_fields["prior"].annotation))
    assert set(POSTERIORS) == set(get_args(Model.model_fields["posterior"].annotation))


def test_the_standard_prior_is_a_standard_normal():
    prior, z = StandardNormal(3)(), torch.randn(5, 3)
    assert (prior.batch_shape, prior.event_shape) == ((), (3,))
    expected = stats.norm.logpdf(z.double().numpy()).sum(axis=-1)
    np.testing.assert_allclose(prior.log_prob(z), expected, **TOLERANCE)


def test_the_standard_prior_has_nothing_to_learn_or_to_store():
    prior = StandardNormal(3)
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}


def test_the_standard_prior_follows_its_module_to_another_type():
    assert StandardNormal(3).double()().sample().dtype == torch.float64


def test_the_diagonal_posterior_has_mean_and_logarithm_of_scale_from_one_layer():
    posterior, features, z = DiagonalNormal(4, 3), torch.randn(5, 4), torch.randn(5, 3)
    mean, log_scale = np.split(head_in_numpy(posterior, features), 2, axis=-1)
    q = posterior(features)
    np.testing.assert_allclose(q.mean.detach(), mean, **TOLERANCE)
    np.testing.assert_allclose(q.stddev.detach(), np.exp(log_scale), **TOLERANCE)
    expected = stats.norm.logpdf(z.double().numpy(), mean, np.exp(log_scale)).sum(axis=-1)
    np.testing.assert_allclose(q.log_prob(z).detach(), expected, **TOLERANCE)


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


def test_a_normal_vector_is_an_independent_normal():
    mean, log_scale, z = torch.randn(5, 3), torch.randn(5, 3), torch.randn(2, 5, 3)
    ours, expected = NormalVector(mean, log_scale), dist.Normal(mean, log_scale.exp()).to_event(1)
    assert ours.expand((5,)) is ours
    torch.testing.assert_close(ours.log_prob(z), expected.log_prob(z))
    for batch_shape in ((5,), (2, 5)):
        wide, other = ours.expand(batch_shape), expected.expand(batch_shape)
        assert (wide.batch_shape, wide.event_shape) == (batch_shape, (3,))
        torch.testing.assert_close(wide.log_prob(z), other.log_prob(z))
        assert torch.equal(kl_divergence(wide, ours.expand(batch_shape)), torch.zeros(batch_shape))
        torch.manual_seed(1)
        drawn = wide.rsample()
        torch.manual_seed(1)
        assert torch.equal(drawn, other.rsample())


@pytest.mark.parametrize("batch_shape", [(), (5,), (2, 5)])
def test_a_standard_normal_vector_is_a_normal_vector(batch_shape):
    ours, expected = StandardNormal(3)().expand(batch_shape), NormalVector(*torch.zeros(2, 3)).expand(batch_shape)
    assert (ours.batch_shape, ours.event_shape) == (batch_shape, (3,))
    z = torch.randn(2, 5, 3)
    torch.testing.assert_close(ours.log_prob(z), expected.log_prob(z))


@pytest.mark.parametrize("batch_shape", [(5,), (2, 5)])
def test_the_divergence_from_a_standard_normal_is_torchs_with_its_gradients(batch_shape):
    parts = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weights, found = torch.randn(batch_shape, dtype=torch.float64), []
    prior = StandardNormal(3).double()()
    for normal in (NormalVector(*parts), dist.Normal(parts[0], parts[1].exp()).to_event(1)):
        kl = kl_divergence(normal.expand(batch_shape), prior.expand(batch_shape))
        found.append([kl, *torch.autograd.grad((weights * kl).sum(), parts)])
    for ours, theirs in zip(*found, strict=True):
        # Sums of three terms in float64.
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
