"""Two levels of latents: the chain of the IWAE's authors and the hierarchical VAE."""

import numpy as np
import pytest
import torch
from pyro import poutine

from tests.model.conftest import sites_of


def test_prior_draws_of_two_levels_put_the_lower_one_first(build):
    model = build(levels="iwae")
    latents, _ = model.draw_prior(4000, seed=0)
    with torch.no_grad():
        lower = model.inner_prior(latents[:, 3:])
        standardized = (latents[:, :3] - lower.mean) / lower.stddev
    for noise in (latents[:, 3:], standardized):
        np.testing.assert_allclose(noise.detach().mean(0), 0, atol=4 / 4000**0.5)
        np.testing.assert_allclose(noise.detach().std(0), 1, atol=4 / 8000**0.5)


def test_posterior_draws_of_two_levels_come_from_the_chain(build):
    model, images = build(levels="hvae"), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        drawn, top = model.draw_posterior(images, 4000, seed=0), model.encode(images)
        z1, z2 = drawn[..., :3], drawn[..., 3:]
        features = model.features(images).expand(4000, -1, -1)
        bottom = model.inner_posterior(torch.cat([features, z2], -1))
    for values, level in ((z2, top), (z1, bottom)):
        noise = (values - level.mean) / level.stddev
        np.testing.assert_allclose(noise.mean(0), 0, atol=4 / 4000**0.5)
        np.testing.assert_allclose(noise.std(0), 1, atol=4 / 8000**0.5)


def test_the_iwae_model_is_a_chain(build):
    model, images = build(levels="iwae"), torch.rand(5, 1, 8, 8)
    drawn = sites_of(model.guide, images)
    z1, z2 = drawn["z1"]["value"], drawn["z2"]["value"]
    assert torch.equal(drawn["z1"]["fn"].mean, model.encode(images).mean)
    assert torch.equal(drawn["z2"]["fn"].mean, model.inner_posterior(z1).mean)
    replayed = sites_of(poutine.condition(model.model, {"z1": z1, "z2": z2}), images)
    assert torch.equal(replayed["z1"]["fn"].mean, model.inner_prior(z2).mean)
    # The image knows the upper level through the lower one alone; float32, rows cut out of longer ones here.
    torch.testing.assert_close(replayed["x"]["fn"].mean, model.decode(torch.cat([z1, torch.randn(5, 2)], -1)))


def test_the_hvae_feeds_both_levels_to_the_decoder_and_the_upper_one_to_the_posterior(build):
    model, images = build(levels="hvae"), torch.rand(5, 1, 8, 8)
    drawn = sites_of(model.guide, images)
    z1, z2 = drawn["z1"]["value"], drawn["z2"]["value"]
    assert torch.equal(drawn["z2"]["fn"].mean, model.encode(images).mean)
    assert torch.equal(drawn["z1"]["fn"].mean, model.inner_posterior(torch.cat([model.features(images), z2], -1)).mean)
    replayed = sites_of(poutine.condition(model.model, {"z1": z1, "z2": z2}), images)
    assert torch.equal(replayed["z1"]["fn"].mean, model.inner_prior(z2).mean)
    for pair in ((z1, z2 + 1), (z1 + 1, z2)):
        assert not torch.equal(replayed["x"]["fn"].mean, model.decode(torch.cat(pair, -1)))
    assert torch.equal(replayed["x"]["fn"].mean, model.decode(torch.cat([z1, z2], -1)))


@pytest.mark.parametrize("levels", ["iwae", "hvae"])
def test_a_representation_of_two_levels_is_the_mean_of_each_in_turn(build, levels):
    model, images = build(levels=levels), torch.rand(5, 1, 8, 8)
    first = model.encode(images).mean
    if levels == "iwae":
        expected = [first, model.inner_posterior(first).mean]
    else:
        expected = [model.inner_posterior(torch.cat([model.features(images), first], -1)).mean, first]
    assert model.latent_dim == 5
    assert torch.equal(model.represent(images), torch.cat(expected, -1))
    assert torch.equal(model.reconstruct(images), model.decode(model.represent(images)))
