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
