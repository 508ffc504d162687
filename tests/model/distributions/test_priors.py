"""Priors: the standard normal, mixtures and flows."""

import math
from typing import get_args

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from tests.model.distributions.conftest import EXACT, perturb, standard
from vae.model import VAE
from vae.model.distributions.normal import NormalVector
from vae.model.distributions.posteriors import POSTERIORS, DiagonalNormal
from vae.model.distributions.priors import PRIORS, NormalMixture, StandardNormal, VampPrior
from vae.settings import Model

# float32 sums of at most some ten terms of order 1 to 10.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


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


SPACING = 0.05


@pytest.fixture
def make_prior(make_settings):
    """Give a function: the density of a perturbed prior over two dimensions, in float64 (a VampPrior's in float32)."""

    def make(name):
        keys = {"latent_dim": 2, "prior": name, "prior_components": 6, "prior_layers": 4, "flow_widths": [8]}
        model = VAE(make_settings(model=keys | {"encoder_widths": [8]}).model, (1, 4, 4)).double()
        # Enough to be another density, not so much that it leaves the grid or has peaks between its points.
        perturb(model, 0.1)
        return model.prior()

    return make


@pytest.fixture
def grid():
    """Points of shape (m, m, 2) on the square of 13 around 0."""
    ticks = torch.arange(-13, 13, SPACING, dtype=torch.float64) + SPACING / 2
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), dim=-1)


@torch.no_grad()
def densities_on(grid, prior):
    return prior.log_prob(grid.to(prior.sample().dtype)).exp().double()


@pytest.mark.parametrize("name", PRIORS)
def test_a_priors_density_integrates_to_1(make_prior, grid, name):
    density = densities_on(grid, make_prior(name))
    # Sums over a grid are exact for smooth densities: there remain some 1e-6 beyond its border and in the VampPrior's
    # float32. A spline has kinks, at which the error is of the order of the spacing squared.
    tolerance = SPACING**2 if name == "spline" else 1e-5
    assert density.sum().item() * SPACING**2 == pytest.approx(1, abs=tolerance)
    # Nor is it still a standard normal: half the absolute difference is 0 for equal densities, 1 for disjoint ones.
    difference = (density - densities_on(grid, standard(2))).abs().sum().item() * SPACING**2 / 2
    assert difference > 0.03 or name == "standard_normal"


def moments_of(z):
    """Functions whose means tell densities apart: shape (..., 8)."""
    a, b = z.unbind(-1)
    return torch.stack([a, b, a * a, b * b, a * b, torch.cos(a + b), torch.sin(a - b), torch.tanh(a) * b], dim=-1)


@pytest.mark.parametrize("name", PRIORS)
def test_draws_from_a_prior_have_the_moments_of_its_density(make_prior, grid, name):
    prior = make_prior(name)
    expected = (moments_of(grid) * densities_on(grid, prior)[..., None]).sum((0, 1)) * SPACING**2
    with torch.no_grad():
        values = moments_of(prior.sample((20_000,)))
    errors = values.std(0) / math.sqrt(len(values))
    # Five standard errors: one of the 40 lies beyond by chance in 40 000 runs; the grid's own error is far smaller.
    assert ((values.mean(0) - expected).abs() < 5 * errors + SPACING**2 / 10).all()


@pytest.fixture
def mixture():
    """Means and scales of 7 normals over 3 dimensions and their log weights, which are not normalized."""
    means, scales, weights = torch.randn(7, 3), torch.rand(7, 3) + 0.2, torch.randn(7)
    return [part.double() for part in (means, scales, weights)]


def reference(means, scales, log_weights):
    components = dist.Normal(means, scales).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=log_weights), components)


def test_a_normal_mixture_has_the_density_and_mean_of_pytorchs(mixture):
    ours, expected, z = NormalMixture(*mixture), reference(*mixture), torch.randn(2, 5, 3, dtype=torch.float64)
    assert (ours.batch_shape, ours.event_shape) == ((), (3,))
    torch.testing.assert_close(ours.log_prob(z), expected.log_prob(z), **EXACT)
    torch.testing.assert_close(ours.mean, expected.mean, **EXACT)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.03, 0.01])
def test_a_normal_mixture_of_float32_loses_no_digits_at_narrow_scales(scale):
    means, scales = torch.randn(500, 40), scale * (0.5 + torch.rand(500, 40))
    weights = torch.randn(500)
    # Half of the values are draws, where the density is high, and half are anywhere.
    z = torch.cat([NormalMixture(means, scales, weights).sample((50,)), torch.randn(50, 40)]).requires_grad_()
    found = NormalMixture(means, scales, weights).log_prob(z)
    exact_z = z.detach().double().requires_grad_()
    expected = reference(means.double(), scales.double(), weights.double()).log_prob(exact_z)
    assert found.dtype == torch.float32
    # The result's own rounding to float32, and that of each component's density.
    torch.testing.assert_close(found.double(), expected, rtol=3e-7, atol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    # Rounding of sums over components, relative to the largest part of a gradient; a component's share of a value that
    # lies between two of them changes by the rounding of their densities, at most 1e6 at these scales.
    error = (z.grad - exact_z.grad).abs().max(-1).values / exact_z.grad.abs().max(-1).values
    assert (error[:50] < 1e-3).all()


def test_a_normal_mixtures_density_stays_float32_under_autocast(mixture):
    means, scales, weights = (part.float() for part in mixture)
    z = 3 * torch.randn(100, 3)
    made = NormalMixture(means, scales / 10, weights)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = made.log_prob(z)
    assert torch.equal(lowered, made.log_prob(z))


def test_draws_from_a_normal_mixture_have_its_moments(mixture):
    drawn, expected = NormalMixture(*mixture).sample((20_000,)), reference(*mixture)
    assert drawn.shape == (20_000, 3)
    errors = drawn.std(0) / math.sqrt(len(drawn))
    # Five standard errors, here and below.
    assert ((drawn.mean(0) - expected.mean).abs() < 5 * errors).all()
    squares = (drawn - expected.mean).square()
    errors = squares.std(0) / math.sqrt(len(drawn))
    assert ((squares.mean(0) - expected.variance).abs() < 5 * errors).all()


def test_a_plates_draws_from_a_mixture_are_independent(mixture):
    wide = NormalMixture(*mixture).expand((2, 5))
    drawn = wide.sample()
    assert (wide.batch_shape, wide.event_shape, drawn.shape) == ((2, 5), (3,), (2, 5, 3))
    assert len(drawn.reshape(10, 3).unique(dim=0)) == 10
    torch.testing.assert_close(wide.log_prob(drawn), NormalMixture(*mixture).log_prob(drawn), **EXACT)


def test_a_vampprior_is_the_mean_of_the_posteriors_at_its_pseudo_inputs():
    head, images = DiagonalNormal(16, 3), torch.rand(6, 1, 4, 4)
    prior = VampPrior((1, 4, 4), 6, lambda images: head(images.flatten(1)))
    prior.initialize(images)
    # What lies within 0.05 of black and white is moved there, for a finite logit; float32 rounding of that.
    torch.testing.assert_close(prior.logits.sigmoid(), images.clamp(0.05, 0.95), rtol=0, atol=1e-6)
    z = torch.randn(5, 1, 3)
    expected = head(images.clamp(0.05, 0.95).flatten(1)).log_prob(z).exp().mean(1).log()
    torch.testing.assert_close(prior().log_prob(z[:, 0]), expected)


def test_a_vampprior_with_more_pseudo_inputs_than_images_keeps_the_rest():
    prior, images = VampPrior((1, 4, 4), 6, NormalVector), torch.rand(2, 1, 4, 4)
    rest = prior.logits[2:].clone()
    prior.initialize(images)
    torch.testing.assert_close(prior.logits[:2].sigmoid(), images.clamp(0.05, 0.95), rtol=0, atol=1e-6)
    assert torch.equal(prior.logits[2:], rest)
