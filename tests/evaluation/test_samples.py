import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from vae.evaluation import samples
from vae.evaluation.classifier import Judgment
from vae.evaluation.samples import (
    class_balance,
    confidence,
    coverage,
    distance_ratio,
    estimate_manifold,
    frechet_distance,
    frechet_error,
    generate,
    manifold_error,
    metrics,
    nearest,
)

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture
def generator():
    """A source of random numbers of the test's own."""
    return torch.Generator().manual_seed(5)


@pytest.fixture
def build(make_model):
    """Give a function: a small VAE with weights of some size."""
    return lambda **keys: make_model(spread=2, **keys).requires_grad_(False)


# --- Draws


def test_binary_pixels_are_drawn_with_the_probabilities_of_their_means(build, device):
    model = build().to(device)
    model.decoder.output.weight.zero_()  # so that every image has the same means
    drawn = generate(model, 5000, seed=0)
    assert drawn.dtype == torch.uint8
    assert drawn.unique().tolist() == [0, 255]
    probabilities = model.decode(torch.zeros(3, device=device))
    errors = (probabilities * (1 - probabilities) / 5000).sqrt()
    # Five standard errors: all 64 pixels keep within them with 99.996 % probability.
    assert ((drawn.float().mean(0) / 255 - probabilities).abs() < 5 * errors).all()


def test_gray_images_are_the_means_of_draws_from_the_prior(build, monkeypatch):
    model = build(likelihood="relaxed_bernoulli")
    decoded = []
    draw_prior = model.draw_prior

    def recording(*args):
        latents, pixels = draw_prior(*args)
        decoded.append(model.decode(latents))
        return latents, pixels

    monkeypatch.setattr(model, "draw_prior", recording)
    drawn = generate(model, 20, seed=0)
    # Half a step of 1/255, and float32's rounding.
    torch.testing.assert_close(drawn / 255, torch.cat(decoded), atol=0.501 / 255, rtol=0)


def test_equal_seeds_give_equal_draws_and_no_part_repeats_another(build, monkeypatch, device):
    monkeypatch.setattr(samples, "_BATCH", 8)
    model = build(likelihood="continuous_bernoulli").to(device)
    drawn = generate(model, 20, seed=1)
    assert torch.equal(drawn, generate(model, 20, seed=1))
    assert len(drawn.unique(dim=0)) == 20
    # A run with the next seed and the next set share no image with it.
    assert len(torch.cat([drawn, generate(model, 20, seed=2), generate(model, 20, 1, 1)]).unique(dim=0)) == 60


def test_a_draw_leaves_the_callers_random_numbers_alone(build):
    model = build()
    before = torch.get_rng_state()
    generate(model, 5, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_conditional_model_draws_as_many_images_of_each_class(build, monkeypatch):
    monkeypatch.setattr(samples, "_BATCH", 8)
    model = build(condition="label")
    asked = []
    draw_prior = model.draw_prior

    def recording(n, seed, labels):
        asked.append(labels)
        return draw_prior(n, seed, labels)

    monkeypatch.setattr(model, "draw_prior", recording)
    assert len(generate(model, 30, seed=0)) == 30
    assert torch.cat(asked).bincount().tolist() == [3] * 10


# --- Frechet distance


def with_moments(mean, root, generator, n=200):
    """Features of exactly this mean and the covariance root @ root.T: float64 (n, d)."""
    noise = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(noise.T.cov()), noise.T, upper=False).T
    return white @ root.T + mean


def test_the_frechet_distance_of_normals_with_independent_features_is_known(generator):
    first_scales, second_scales = torch.tensor([1.0, 2, 0.5]).double(), torch.tensor([3.0, 1, 0.5]).double()
    mean = torch.tensor([1.0, -2, 0]).double()
    first = with_moments(torch.zeros(3).double(), first_scales.diag(), generator)
    second = with_moments(mean, second_scales.diag(), generator, n=300)
    # |m|^2 + sum (s_1 - s_2)^2 = 5 + (4 + 1 + 0), the sets having the moments but for float64's rounding.
    assert frechet_distance(first, second) == pytest.approx(10, abs=1e-9)


def test_the_frechet_distance_of_covariances_that_do_not_commute_agrees_with_the_matrix_root(generator):
    roots = torch.randn(2, 5, 5, generator=generator, dtype=torch.float64)
    sets = [with_moments(torch.zeros(5).double(), root, generator) for root in roots]
    one, two = (root.numpy() @ root.numpy().T for root in roots)
    expected = np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(*sets[::-1]) == pytest.approx(expected, rel=1e-8)


def test_identical_sets_have_no_frechet_distance_even_with_dead_features(generator):
    features = torch.randn(50, 6, generator=generator)
    features[:, 2] = 0
    features[:, 3] = features[:, 4]
    # The roots of eigenvalues that are 0 but for 1e-16 of rounding.
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-6)


def test_fewer_images_than_features_have_a_frechet_distance(generator):
    features = torch.randn(4, 10, generator=generator)
    assert frechet_distance(features, features + 1) == pytest.approx(10, rel=1e-5)


# --- Precision and recall


LINE = torch.tensor([[0.0], [1], [3], [7]])


@pytest.mark.parametrize(("neighbors", "radii"), [(1, [1, 1, 2, 4]), (2, [3, 2, 3, 6]), (3, [7, 6, 4, 7])])
def test_a_ball_reaches_to_the_kth_neighbor(neighbors, radii):
    torch.testing.assert_close(estimate_manifold(LINE, neighbors).squared_radii, torch.tensor(radii).float() ** 2)


def test_a_ball_reaches_to_the_last_neighbor_where_there_are_too_few():
    assert torch.equal(estimate_manifold(LINE, 100).squared_radii, estimate_manifold(LINE, 3).squared_radii)


def test_coverage_counts_what_lies_in_any_ball_or_on_its_edge():
    # The balls are [-1, 1], [0, 2], [1, 5] and [3, 11].
    points = torch.tensor([[-1.5], [-1], [2.5], [10.5], [11.5]])
    assert coverage(points, estimate_manifold(LINE, 1)).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("entries", [1, 60, 10**7], ids=["a row at a time", "3 rows at a time", "all at once"])
def test_coverage_agrees_with_scipys_distances(generator, monkeypatch, entries):
    monkeypatch.setattr(samples, "_CHUNK", entries)
    centers, points = torch.randn(20, 4, generator=generator), 2 * torch.randn(31, 4, generator=generator)
    radii = np.sort(cdist(centers, centers), axis=1)[:, 3]
    expected = (cdist(points, centers) <= radii).any(axis=1)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(coverage(points, estimate_manifold(centers, 3)), expected)


def judgment(features):
    """A judgment with these features, of two classes that are equally probable."""
    return Judgment(features, torch.full((len(features), 2), 0.5))


def test_identical_sets_reach_the_best_values(generator):
    same = judgment(torch.randn(50, 4, generator=generator))
    scores = metrics([same] * 3, same, same, 3, 0)
    assert scores["precision"] == scores["recall"] == scores["precision_real"] == scores["recall_real"] == 1
    assert scores["frechet_distance"] == pytest.approx(0, abs=1e-9)


def test_disjoint_sets_share_nothing(generator):
    real = torch.randn(50, 4, generator=generator)
    scores = metrics([judgment(real + 100)], judgment(real), judgment(real), 3, 0)
    assert scores["precision"] == scores["recall"] == 0
    # The sets differ in their means alone, by 100 in each of four features.
    assert scores["frechet_distance"] == pytest.approx(40000, rel=1e-5)
    assert scores["frechet_distance_real"] == pytest.approx(0, abs=1e-9)


def test_a_model_that_leaves_out_half_of_the_data_has_precision_but_half_the_recall(generator):
    half = torch.rand(50, 4, generator=generator)
    scores = metrics([judgment(half)], judgment(torch.cat([half, half + 100])), judgment(half + 100), 3, 0)
    assert (scores["precision"], scores["recall"]) == (1, 0.5)
    assert (scores["precision_real"], scores["recall_real"]) == (1, 0.5)


def test_a_model_that_adds_images_unlike_the_data_has_recall_but_half_the_precision(generator):
    half = torch.rand(50, 4, generator=generator)
    known = judgment(half)
    scores = metrics([judgment(torch.cat([half, half + 100]))], known, known, 3, 0)
    assert (scores["precision"], scores["recall"]) == (0.5, 1)


# --- Standard errors


def test_the_error_of_a_frechet_distance_is_its_spread_over_other_images(generator):
    drawn = torch.randn(500, 4, generator=generator) + 1
    others = torch.randn(300, 400, 4, generator=generator)
    spread = np.std([frechet_distance(drawn, images) for images in others])
    errors = [frechet_error(drawn, images, seed=0) for images in others[:5]]
    # 50 resamples give it to a tenth each, and five sets of images to less.
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)
    assert frechet_error(drawn, others[0], seed=0) == errors[0]


def test_the_error_of_a_manifold_is_its_spread_over_other_images(generator):
    points, others = 1.2 * torch.randn(300, 8, generator=generator), torch.randn(60, 500, 8, generator=generator)
    shares = [coverage(points, estimate_manifold(images, 3)).double().mean().item() for images in others]
    errors = [manifold_error(points, images, 3) for images in others]
    # For normal features it is low by a third, as outliers matter at every size; on MNIST's it was 0.0105, where
    # disjoint sets of 10,000 training images had standard deviations of 0.008 to 0.012.
    assert 0.5 < np.sqrt(np.mean(np.square(errors))) / np.std(shares) < 1.5


def test_errors_cover_the_draws_and_the_images(generator):
    sets = [judgment(torch.randn(60, 4, generator=generator)) for _ in range(3)]
    test = judgment(torch.randn(60, 4, generator=generator))
    scores = metrics(sets, test, test, 3, seed=0)

    def expected(values, over_test_images):
        return np.mean(values), np.hypot(np.std(values, ddof=1) / np.sqrt(3), over_test_images)

    def both(name):
        return scores[name], scores[f"{name}_stderr"]

    distances = [frechet_distance(drawn.features, test.features) for drawn in sets]
    error = frechet_error(sets[0].features, test.features, 0)
    assert both("frechet_distance") == pytest.approx(expected(distances, error))
    real = estimate_manifold(test.features, 3)
    shares = [coverage(drawn.features, real).double().mean().item() for drawn in sets]
    assert both("precision") == pytest.approx(expected(shares, manifold_error(sets[0].features, test.features, 3)))
    found = np.array([coverage(test.features, estimate_manifold(drawn.features, 3)).numpy() for drawn in sets])
    assert both("recall") == pytest.approx(expected(found.mean(1), found.mean(0).std(ddof=1) / np.sqrt(60)))


# --- Classes


def test_confidence_is_the_largest_probability_averaged_over_images(generator):
    drawn = torch.tensor([[0.7, 0.3], [0.1, 0.9]])
    real = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    features = torch.randn(2, 3, generator=generator)
    assert confidence(drawn).tolist() == pytest.approx([0.7, 0.9])
    scores = metrics([Judgment(features, drawn)], Judgment(features, real), Judgment(features, drawn), 1, 0)
    assert scores["sample_confidence"] == pytest.approx(0.8)
    assert scores["test_confidence"] == pytest.approx(0.75)
    assert scores["class_balance"] == pytest.approx(np.exp(-0.4 * np.log(0.4) - 0.6 * np.log(0.6)) / 2)


@pytest.mark.parametrize(
    ("predicted", "balance"), [([0, 1, 2, 3], 1), ([0, 0, 1, 1], 0.5), ([2, 2, 2, 2], 0.25), ([0, 3, 0, 3], 0.5)]
)
def test_class_balance_is_the_share_of_classes_in_use(predicted, balance):
    assert class_balance(torch.eye(4)[predicted]) == pytest.approx(balance)


def test_class_balance_counts_images_that_look_like_two_classes_half_for_each():
    assert class_balance(torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0]])) == pytest.approx(2 / 3)


# --- Nearest training images


@pytest.mark.parametrize("entries", [1, 70, 10**7], ids=["an image at a time", "7 images at a time", "all at once"])
def test_the_nearest_images_are_those_that_scipy_finds(digits, monkeypatch, entries):
    monkeypatch.setattr(samples, "_CHUNK", entries)
    images, references = digits[:10], digits[10:300]
    distances, indices = nearest(images, references)
    expected = cdist(images.flatten(1) / 255, references.flatten(1) / 255)
    assert indices.tolist() == expected.argmin(axis=1).tolist()
    # float32 sums of 64 squares.
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-5)


def test_copies_of_training_images_are_found_and_have_no_distance(digits):
    assert len(digits[:500].unique(dim=0)) == 500
    copies = torch.tensor([17, 3, 499, 250])
    distances, indices = nearest(digits[copies], digits[:500])
    assert torch.equal(indices, copies)
    assert distances.tolist() == [0, 0, 0, 0]
    usual, _ = nearest(digits[500:600], digits[:500])
    assert distance_ratio(distances, usual) == {"neighbor_distance_ratio": (0, 0)}


def test_a_black_and_a_white_image_are_as_far_apart_as_the_root_of_their_pixels():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1).expand(2, 4, 9)
    distances, _ = nearest(images[:1], images[1:])
    assert distances.item() == 6


def test_the_ratio_is_of_means():
    ratio = distance_ratio(torch.tensor([1.0, 3, 5]), torch.tensor([1.0, 2, 3]))
    # Standard errors of 2 / sqrt(3) and 1 / sqrt(3), each relative to its mean.
    expected = (1.5, 1.5 * np.hypot(2 / 3, 1 / 2) / np.sqrt(3))
    assert ratio == {"neighbor_distance_ratio": pytest.approx(expected)}


def test_there_is_no_ratio_to_test_images_that_are_training_images():
    assert distance_ratio(torch.tensor([1.0, 3, 100]), torch.zeros(3)) == {}
