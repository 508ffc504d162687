import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from vae import exploration
from vae.distributions.likelihoods import BernoulliImage, LogisticPixels


def make_inputs(count, side=8):
    random = np.random.default_rng(0)
    return (random.random((count, side, side)) > 0.5).astype(float), np.arange(count) % 10


def test_first_of_each_class_takes_as_many_as_the_rarest_class_has():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 2])
    np.testing.assert_array_equal(exploration.first_of_each_class(labels, 3, 6), [[1, 3], [2, 5], [0, 4]])
    np.testing.assert_array_equal(exploration.first_of_each_class(labels, 3, 1), [[1], [2], [0]])


def test_extremes_of_each_class_are_its_lowest_and_highest_values():
    values = np.array([5.0, 1, 9, 2, 3, 2, 7])
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    lowest, highest = exploration.extremes_of_each_class(values, labels, 2, 2)
    np.testing.assert_array_equal(lowest, [[1, 0], [3, 5]])
    np.testing.assert_array_equal(highest, [[2, 6], [4, 3]])
    assert exploration.extremes_of_each_class(values, labels, 2, 9).shape == (2, 2, 3)


def test_reconstructions_keep_the_shape_of_the_indices(make_model):
    model = make_model()
    images, labels = make_inputs(6)
    found = exploration.reconstruct(model, images.reshape(2, 3, 8, 8), labels.reshape(2, 3))
    expected = model.reconstruct(torch.from_numpy(images).float(), torch.from_numpy(labels))
    # Float32: the same operations, in batches of the same size.
    np.testing.assert_array_equal(found.reshape(6, 8, 8), expected.detach())


@pytest.mark.parametrize("condition", ["none", "label"])
def test_interpolations_end_at_the_means_and_pass_half_way(make_model, condition):
    model = make_model(spread=2.0, condition=condition)
    means = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    labels = np.array([4, 5, 6])
    found = exploration.interpolate(model, means, labels, 5)

    def decode(latent, label):
        return model.decode(torch.from_numpy(latent), torch.tensor(label)).detach().numpy()

    for line, (start, end) in enumerate(((0, 1), (1, 2), (2, 0))):
        between = [means[start] + share * (means[end] - means[start]) for share in np.float32([0, 0.25, 0.5, 0.75, 1])]
        nearer = [labels[end if step >= 2 else start] for step in range(5)]
        expected = [decode(latent, label) for latent, label in zip(between, nearer, strict=True)]
        # Float32 sums in another order, as one is decoded at a time here.
        np.testing.assert_allclose(found[line], expected, atol=1e-6)


def test_a_traversal_moves_one_dimension_and_no_other(make_model):
    model = make_model(spread=2.0)
    mean, spread = np.float32([0.1, 0.2, 0.3]), np.float32([1, 2, 0])
    found = exploration.traverse(model, mean, spread, np.array([1, 2]), np.array([-3.0, 0, 3]), 0)
    for step, moved in enumerate((-5.8, 0.2, 6.2)):
        expected = model.decode(torch.tensor([0.1, moved, 0.3])).detach()
        np.testing.assert_allclose(found[0, step], expected, atol=1e-6)  # float32
    assert np.ptp(found[0], axis=0).max() > 0.01
    np.testing.assert_array_equal(found[1], found[1, [0, 0, 0]], "a dimension without any spread stays where it is")


def test_the_plane_of_a_standard_normal_prior_is_cut_at_its_quantiles(make_model):
    model = make_model(latent_dim=2)
    model.metadata = {"model": {"levels": "one", "prior": "standard_normal"}}
    plane = exploration.decode_plane(model, np.zeros((4, 2), np.float32), 5, 0)
    np.testing.assert_allclose(plane.across, stats.norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9]), atol=1e-12)
    np.testing.assert_array_equal(plane.up, plane.across[::-1])
    corner = model.decode(torch.tensor([plane.across[0], plane.up[0]]).float()).detach()
    np.testing.assert_allclose(plane.decoded[0, 0], corner, atol=1e-6)  # float32
    assert plane.places == "the prior's quantiles"


def test_the_plane_of_another_prior_is_cut_at_the_means_quantiles(make_model):
    model = make_model(latent_dim=2)
    model.metadata = {"model": {"levels": "one", "prior": "realnvp"}}
    means = np.float32([[0, 10], [1, 30], [2, 20], [3, 50], [4, 40]])
    plane = exploration.decode_plane(model, means, 2, 0)
    np.testing.assert_allclose(plane.across, [1, 3])
    np.testing.assert_allclose(plane.up, [40, 20])
    assert plane.places == "the posterior means' quantiles"


def test_the_parts_of_the_uncertainty_are_the_variance_of_pixels_drawn_from_the_model(make_model):
    model = make_model(spread=3.0).eval().requires_grad_(False)
    images, labels = make_inputs(2)
    draws = 2_000
    found = exploration.uncertainty(model, images, labels, draws, seed=0)
    latents = model.draw_posterior(torch.from_numpy(images).float(), draws, 0, torch.from_numpy(labels))
    drawn = model.pixels(latents).sample().double()
    total = found.latent_deviation**2 + found.noise_deviation**2
    # A mean of so many 0s and 1s has a standard error of at most 0.5 / sqrt(2000) = 0.011; five of them.
    np.testing.assert_allclose(found.mean, drawn.mean(0), atol=0.056)
    np.testing.assert_allclose(total, drawn.var(0), atol=0.056)
    assert found.latent_deviation.max() > 0.1, "the latent vector would have no part in it"
    # All that is known of a binary pixel is its mean.
    np.testing.assert_allclose(total, found.mean * (1 - found.mean), atol=1e-5)


def test_classes_are_sampled_from_the_same_draws(make_model):
    model = make_model(condition="label")
    found = exploration.sample_each_class(model, 3, seed=1)
    assert found.shape == (3, 10, 8, 8)
    np.testing.assert_array_equal(found[:, 7], model.sample(3, 1, torch.full((3,), 7)).detach())


def test_a_binary_pixels_variance_is_that_of_a_bernoulli():
    logits = torch.tensor([[-3.0, 0.5]])
    torch.testing.assert_close(BernoulliImage(logits).variance, dist.Bernoulli(logits=logits).variance)


@pytest.mark.parametrize(("mean", "scale"), [(0.5, 0.001), (0.3, 0.05), (0.02, 0.1), (1.0, 0.3)])
def test_an_8_bit_pixels_variance_is_the_sum_over_its_values(mean, scale):
    pixel = LogisticPixels(torch.tensor(mean).double(), torch.tensor(scale).double().log())
    values = torch.arange(256).double() / 255
    # At the ends log_prob takes what lies beyond.
    chances = torch.stack([pixel.log_prob(value) for value in values]).exp()
    expected = (chances * values**2).sum() - (chances * values).sum() ** 2
    assert chances.sum() == pytest.approx(1, abs=1e-9)
    assert pixel.variance.item() == pytest.approx(expected.item(), abs=1e-9)
