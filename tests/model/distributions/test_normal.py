"""Vectors of independent normals, against torch's."""

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from vae.model.distributions.normal import NormalVector
from vae.model.distributions.priors import StandardNormal


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


@pytest.mark.parametrize("sample_shape", [(), (4,)])
def test_the_density_of_a_draw_is_that_of_any_value_with_its_gradients(sample_shape):
    parts = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    ours, torchs = NormalVector(*parts), dist.Normal(parts[0], parts[1].exp()).to_event(1)
    weights, found = torch.randn(*sample_shape, 5, dtype=torch.float64), []
    for normal, other in ((ours, False), (ours, True), (torchs, False)):
        torch.manual_seed(1)
        drawn = normal.rsample(sample_shape)
        density = normal.log_prob(drawn.view_as(drawn) if other else drawn)
        loss = (weights * density).sum() + drawn.sin().sum()
        found.append([drawn, density, *torch.autograd.grad(loss, parts)])
    for result in found[:2]:
        for value, expected in zip(result, found[2], strict=True):
            # Sums of some ten terms in float64.
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


def test_the_density_of_a_draw_passes_no_gradient_through_the_noise():
    mean, log_scale = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    normal = NormalVector(mean, log_scale)
    density = normal.log_prob(normal.rsample())
    of_mean, of_log_scale = torch.autograd.grad(density, [mean, log_scale], allow_unused=True)
    assert of_mean is None
    assert torch.equal(of_log_scale, -torch.ones(3))


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
