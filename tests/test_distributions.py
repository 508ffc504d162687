import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.distributions import kl_divergence

from vae.distributions import Bernoulli, DiagonalNormal, StandardNormal

# float32 sums of at most some ten terms of order 1 to 10.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def posterior():
    """A posterior over 3 latent dimensions, for 4 features."""
    return DiagonalNormal(4, 3)


def head_in_numpy(posterior, features):
    weight, bias = (parameter.detach().double().numpy() for parameter in posterior.head.parameters())
    mean, log_scale = np.split(features.double().numpy() @ weight.T + bias, 2, axis=-1)
    return mean, np.exp(log_scale)


def test_the_prior_is_a_standard_normal():
    prior, z = StandardNormal(3)(), torch.randn(5, 3)
    assert (prior.batch_shape, prior.event_shape) == ((), (3,))
    expected = stats.norm.logpdf(z.double().numpy()).sum(axis=-1)
    np.testing.assert_allclose(prior.log_prob(z), expected, **TOLERANCE)


def test_the_prior_has_nothing_to_learn_or_to_store():
    prior = StandardNormal(3)
    assert list(prior.parameters()) == []
    assert prior.state_dict() == {}


def test_the_prior_follows_its_module_to_another_type():
    assert StandardNormal(3).double()().sample().dtype == torch.float64


def test_the_posterior_is_a_normal_with_mean_and_logarithm_of_scale_from_one_layer(posterior):
    features, z = torch.randn(5, 4), torch.randn(5, 3)
    mean, scale = head_in_numpy(posterior, features)
    q = posterior(features)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    np.testing.assert_allclose(q.mean.detach(), mean, **TOLERANCE)
    np.testing.assert_allclose(q.stddev.detach(), scale, **TOLERANCE)
    expected = stats.norm.logpdf(z.double().numpy(), mean, scale).sum(axis=-1)
    np.testing.assert_allclose(q.log_prob(z).detach(), expected, **TOLERANCE)


def test_the_posterior_keeps_leading_dimensions(posterior):
    q = posterior(torch.randn(2, 5, 4))
    assert (q.batch_shape, q.event_shape) == ((2, 5), (3,))


def test_the_posterior_is_reparameterised(posterior):
    posterior(torch.randn(5, 4)).rsample().sum().backward()
    assert (posterior.head.weight.grad != 0).all()


def test_posterior_and_prior_have_the_closed_form_of_kingma_and_welling(posterior):
    features = torch.randn(5, 4)
    mean, scale = head_in_numpy(posterior, features)
    # Kingma & Welling 2014, appendix B.
    expected = (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum(axis=-1) / 2
    kl = kl_divergence(posterior(features), StandardNormal(3)())
    np.testing.assert_allclose(kl.detach(), expected, **TOLERANCE)


def test_the_likelihood_is_an_independent_coin_for_each_pixel():
    logits, x = torch.randn(5, 2, 3), torch.randint(2, (5, 2, 3)).float()
    p = Bernoulli()(logits)
    assert (p.batch_shape, p.event_shape) == ((5,), (2, 3))
    probabilities = special.expit(logits.double().numpy())
    np.testing.assert_allclose(p.mean, probabilities, **TOLERANCE)
    expected = stats.bernoulli.logpmf(x.numpy(), probabilities).sum(axis=(-2, -1))
    np.testing.assert_allclose(p.log_prob(x), expected, **TOLERANCE)


def test_the_likelihood_stays_finite_where_the_probability_underflows():
    logits = torch.tensor([[-200.0, 200.0]])
    # log(1 - sigmoid(200)) = -200 up to e^-200.
    assert Bernoulli()(logits).log_prob(torch.tensor([[1.0, 0.0]])).item() == -400


def test_grey_pixels_give_the_cross_entropy():
    logits, x = torch.randn(5, 2, 3), torch.rand(5, 2, 3)
    grey, probabilities = x.double().numpy(), special.expit(logits.double().numpy())
    expected = (grey * np.log(probabilities) + (1 - grey) * np.log1p(-probabilities)).sum(axis=(-2, -1))
    np.testing.assert_allclose(Bernoulli()(logits).log_prob(x), expected, **TOLERANCE)


def test_the_initial_output_has_the_given_mean_within_a_thousandth_of_0_and_1():
    means = torch.tensor([[0.0, 0.0005, 0.25], [0.5, 0.9995, 1.0]])
    expected = special.logit(np.clip(means.double().numpy(), 0.001, 0.999))
    np.testing.assert_allclose(Bernoulli.initial_output(means), expected, **TOLERANCE)
