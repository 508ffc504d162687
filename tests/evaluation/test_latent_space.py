import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from tests.conftest import as_split
from vae.evaluation import latent_space as latent
from vae.evaluation.latent_space import active_units, classify, kl_per_dimension, metrics, mmd, prior_mmd, represent
from vae.evaluation.uncertainty import Estimate
from vae.model import make_model as make_any_model

pytestmark = pytest.mark.usefixtures("lean")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fix_posterior(model, mean, scale):
    """Let every image have the posterior N(mean, diag(scale^2))."""
    with torch.no_grad():
        model.posterior.head.weight.zero_()
        model.posterior.head.bias.copy_(torch.cat([torch.tensor(mean), torch.tensor(scale).log()]))
    return model


# --- Representations and active units


def test_representations_are_posterior_means_with_each_images_label(make_model, digits, monkeypatch, device):
    monkeypatch.setattr(latent, "_BATCH", 7)
    model = make_model(spread=2, condition="label").to(device)
    images, labels = digits[:20].to(device), torch.arange(20, device=device) % 10
    means = represent(model, as_split(images, labels))
    assert (means.shape, means.dtype, means.device.type) == ((20, 3), torch.float32, "cpu")
    # Other batches' products may add up in another order.
    torch.testing.assert_close(means, model.represent(images.float() / 255, labels).detach().cpu())


def test_dimensions_are_active_above_a_variance_of_a_hundredth():
    deviations = torch.tensor([-1.0, 1.0]).repeat(500)
    means = torch.stack([7 + 0 * deviations, 0.099 * deviations, 0.102 * deviations, deviations], dim=1)
    assert active_units(means) == 2


def test_a_latent_dimension_that_ignores_the_image_is_not_active(make_model, digits):
    model, split = make_model(spread=2, latent_dim=5), as_split(digits[:100])
    assert active_units(represent(model, split)) == 5
    with torch.no_grad():
        model.posterior.head.weight[[0, 3]] = 0
    assert active_units(represent(model, split)) == 3


# --- The KL divergence of each dimension


def test_kl_of_a_known_posterior_is_exact_and_a_dead_dimension_has_none(make_model, digits):
    mean, scale = np.array([0.0, 2.0, 0.0]), np.array([1.0, 0.5, 0.2])
    model = fix_posterior(make_model(), mean.tolist(), scale.tolist())
    kl = kl_per_dimension(model, as_split(digits[:500]), seed=0)
    expected = (mean**2 + scale**2 - 1 - 2 * np.log(scale)) / 2
    # The prior's mean and variance have standard errors of 0.01 and 0.014 from 10,000 draws, which a mean of 2 doubles;
    # four of both together. A dead dimension feels them in the second order alone, and what 500 images of 100 draws
    # leave, sqrt(1 / 100^2 / 500) = 0.0005.
    np.testing.assert_allclose(kl, expected, atol=4 * np.hypot(0.02, 0.028))
    assert abs(kl[0]) < 0.002


def test_draws_of_few_are_corrected_for(make_model, digits, monkeypatch):
    monkeypatch.setattr(latent, "_POSTERIOR_DRAWS", 5)
    model = fix_posterior(make_model(), [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    # Uncorrected moments would add (1 / 5 + log 2 - digamma(2)) / 2, about a quarter of a nat; one image's estimate
    # deviates by about half a nat.
    assert (kl_per_dimension(model, as_split(digits[:1500]), seed=0).abs() < 4 * 0.5 / 1500**0.5).all()


def test_dimensions_add_up_to_the_closed_form_over_batches(make_model, digits, monkeypatch):
    monkeypatch.setattr(latent, "_BATCH", 70)
    model, images = make_model(spread=1.5), digits[:200]
    with torch.no_grad():
        q = model.encode(images.float() / 255)
    expected = (q.mean**2 + q.stddev**2 - 1 - 2 * q.stddev.log()).mean(0) / 2
    kl = kl_per_dimension(model, as_split(images), seed=0)
    assert kl.dtype == torch.float32
    # The prior's moments, as above, where means are about 1.
    np.testing.assert_allclose(kl, expected, atol=0.05)


@pytest.mark.parametrize(
    "model",
    [
        {"levels": "iwae", "top_dim": 2},
        {"levels": "hvae", "top_dim": 2},
        {"posterior": "iaf"},
        {"posterior": "coupling", "prior": "realnvp"},
        {"posterior": "full_covariance", "prior": "gaussian_mixture", "prior_components": 3},
        {"condition": "label"},
    ],
    ids=str,
)
def test_every_kind_of_model_has_a_kl_a_mmd_and_means(make_settings, digits, model):
    sizes = {"latent_dim": 3, "encoder_widths": [16], "decoder_widths": [16], "inner_widths": [6], "flow_widths": [8]}
    made = make_any_model(
        make_settings(model=sizes | {"prior": "standard_normal"} | model).model, (1, 8, 8), classes=10
    )
    split = as_split(digits[:50])
    dim = 5 if "levels" in model else 3
    assert represent(made, split).shape == (50, dim)
    kl = kl_per_dimension(made, split, seed=0)
    assert kl.shape == (dim,)
    assert kl.isfinite().all()
    assert np.isfinite(prior_mmd(made, split, seed=0)).all()


# --- The aggregate posterior against the prior


def test_mmd_by_hand():
    # Distances within: 2 and 1; between: 3, 4, 1, 2. The median of 1, 1, 2, 2, 3, 4 is (its lower one) 2.
    def kernel(distance):
        return np.exp(-(distance**2) / 8)

    points, others = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [4.0]])
    expected = kernel(2) + kernel(1) - 2 * (kernel(3) + kernel(4) + kernel(1) + kernel(2)) / 4
    assert mmd(points, others) == pytest.approx(expected, rel=1e-12)


def test_equal_distributions_are_within_the_standard_error_of_0():
    points = normal(600, 5)
    # What other ways to split the same points in two give, whose mean is 0 but for the points that they share.
    orders = [torch.randperm(600, generator=torch.Generator().manual_seed(seed)) for seed in range(30)]
    splits = np.array([mmd(points[order[:300]], points[order[300:]]) for order in orders])
    assert abs(mmd(points[:300], points[300:])) < 4 * splits.std()
    assert abs(splits.mean()) < 4 * splits.std() / 30**0.5
    assert splits.std() < 0.002


def test_shifted_normals_have_the_population_value():
    shift, dim = 1.0, 4
    points, others = normal(1500, dim), normal(1500, dim, seed=1)
    others[:, 0] += shift
    s2 = torch.pdist(torch.cat([points, others])).median().item() ** 2
    # The kernel's mean where the difference is N(m, 2 I) is (s^2 / (s^2 + 2))^(dim / 2) exp(-m^2 / 2 (s^2 + 2)).
    expected = 2 * (s2 / (s2 + 2)) ** (dim / 2) * (1 - np.exp(-(shift**2) / (2 * (s2 + 2))))
    # Over repeated draws of this size the estimate deviates by 0.004.
    assert mmd(points, others) == pytest.approx(expected, abs=4 * 0.004)
    assert expected > 0.06


def test_the_prior_itself_has_no_mmd_and_a_collapsed_or_distant_posterior_has(make_model, digits):
    def measured(mean, scale):
        return prior_mmd(fix_posterior(make_model(), [mean] * 3, [scale] * 3), as_split(digits[:1000]), seed=0)

    # Over repeated draws of 200 points each an estimate deviates by 0.002 where the distributions are equal, the mean
    # of five by 0.0009.
    value, error = measured(0.0, 1.0)
    assert abs(value) < 4 * 0.0009
    # The standard deviation of five values: within a factor of 3 of what it estimates, 999 times in 1000.
    assert 0.0003 < error < 0.0027
    assert measured(0.0, 0.01).value > 0.1
    assert measured(5.0, 1.0).value > 0.5


def test_mmd_looks_at_images_from_all_over_the_set(make_model, digits, monkeypatch):
    monkeypatch.setattr(latent, "_MMD_POINTS", 3)
    seen = []
    monkeypatch.setattr(latent, "_posterior_draws", lambda model, split, *_: seen.append(split) or [normal(1, 3, 3)])
    split = as_split(digits[:18], torch.arange(18))
    prior_mmd(make_model(), split, seed=0)
    # Five draws of three images each, none of them twice.
    assert [part.labels.tolist() for part in seen] == [[start, start + 6, start + 12] for start in range(5)]
    assert torch.equal(seen[1].images, digits[[1, 7, 13]])


def test_few_images_have_fewer_draws_and_each_has_two_images(make_model, digits):
    assert prior_mmd(make_model(), as_split(digits[:3]), seed=0).error == 0
    assert prior_mmd(make_model(), as_split(digits[:4]), seed=0).error > 0


def test_batches_and_distributions_have_noise_of_their_own(make_model, digits, monkeypatch):
    monkeypatch.setattr(latent, "_BATCH", 20)
    model, split = fix_posterior(make_model(), [0.0] * 3, [1.0] * 3), as_split(digits[:40])
    one, two = latent._posterior_draws(model, split, 1, seed=1)
    prior = latent._prior_draws(model, 40, seed=2)
    drawn = torch.cat([one[0], two[0], prior])
    assert drawn.shape == (80, 3)
    assert len(drawn.unique(dim=0)) == 80


@pytest.mark.parametrize("measure", [kl_per_dimension, prior_mmd])
def test_the_seed_fixes_what_is_drawn(make_model, digits, measure):
    model, split = make_model(), as_split(digits[:20])
    first, again, other = (torch.as_tensor(measure(model, split, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- The classes


@pytest.fixture
def blobs():
    """Give a function: n points near the corners of a triangle, and which corner each is at."""

    def make(n, seed=0):
        labels = torch.arange(n) % 3
        corners = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
        return corners[labels] + normal(n, 2, seed=seed) / 2, labels

    return make


def test_classes_that_lie_apart_are_read_off_and_are_the_clusters(blobs):
    (training, known), (means, labels) = blobs(90), blobs(60, seed=1)
    classified = classify(training, known, means, labels, seed=0)
    assert [estimate.value for estimate in classified[:4]] == [1, 1, pytest.approx(1), pytest.approx(1)]
    assert classified.probe_accuracy.error == classified.neighbor_accuracy.error == 0
    assert classified.predicted.dtype == np.int64
    np.testing.assert_array_equal(classified.predicted, labels)


def test_labels_that_have_nothing_to_do_with_the_points_are_guessed(blobs):
    training, means = blobs(900)[0], blobs(900, seed=1)[0]
    generator = torch.Generator().manual_seed(0)
    known, labels = (torch.randint(3, (900,), generator=generator) for _ in range(2))
    classified = classify(training, known, means, labels, seed=0)
    # One in three, within four binomial standard errors of 0.0157; the other two have a spread of 0.001 about 0.
    for accuracy in (classified.probe_accuracy, classified.neighbor_accuracy):
        assert abs(accuracy.value - 1 / 3) < 0.063
        assert accuracy.error == pytest.approx(0.0157, abs=0.0005)
    assert abs(classified.cluster_ari.value) < 0.01
    assert abs(classified.cluster_nmi.value) < 0.01


def test_of_several_starts_the_most_likely_mixture_counts_and_their_spread_is_the_error():
    # Nine blobs for four clusters: where they start decides which blobs share one.
    corners = torch.cartesian_prod(*(torch.tensor([0.0, 9, 18]),) * 2)
    labels = torch.arange(900) % 4
    means = corners[torch.arange(900) % 9] + normal(900, 2) / 2
    classified = classify(means, labels, means, labels, seed=1)
    mixtures = [GaussianMixture(4, max_iter=300, random_state=seed).fit(means.double()) for seed in latent._seeds(1, 4)]
    scores = [adjusted_rand_score(labels, mixture.predict(means.double())) for mixture in mixtures]
    best = np.argmax([mixture.score(means.double()) for mixture in mixtures])
    assert len({round(mixture.lower_bound_, 3) for mixture in mixtures}) > 1
    assert classified.cluster_ari == pytest.approx((scores[best], np.std(scores, ddof=1)))


def test_each_test_image_is_what_most_of_its_five_nearest_training_images_are():
    training = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [10.0], [11.0], [12.0]])
    known = torch.tensor([0, 0, 1, 1, 1, 0, 0, 0])
    means, labels = torch.tensor([[0.0], [12.0]]), torch.tensor([0, 0])
    classified = classify(training, known, means, labels, seed=0)
    # The nearest one of the first point is of class 0, but three of five are of class 1.
    np.testing.assert_array_equal(classified.predicted, [1, 0])
    assert classified.neighbor_accuracy.value == 0.5


def test_the_probe_does_not_care_for_the_scale_of_a_dimension(blobs):
    (training, known), (means, labels) = blobs(90), blobs(60, seed=1)
    stretched = torch.tensor([1e-4, 1e3])
    classified = classify(training * stretched, known, means * stretched, labels, seed=0)
    assert classified.probe_accuracy.value == 1


@pytest.mark.parametrize("noise", [0, 1e-3], ids=["constant means", "almost constant means"])
def test_a_collapsed_posterior_is_as_good_as_guessing(noise):
    labels = torch.arange(200) % 10
    training, means = 0.3 + noise * normal(200, 4), 0.3 + noise * normal(200, 4, seed=1)
    classified = classify(training, labels, means, labels, seed=0)
    # One in ten, within four binomial standard errors of 0.021. Chance shares about 81 / 400 = 0.2 nats of 2.3 between
    # ten classes and ten clusters of 200 images. Constant means need not all get the same class: rows of one product
    # may be rounded differently, and rounding is all that there is to go by.
    for accuracy in (classified.probe_accuracy, classified.neighbor_accuracy):
        assert accuracy.value == pytest.approx(0.1, abs=0.085)
    assert classified.cluster_ari.value == pytest.approx(0, abs=0.03)
    assert classified.cluster_nmi.value == pytest.approx(0, abs=0.2)


def test_few_training_images_that_lack_classes_are_enough(digits):
    points = digits.flatten(1).float() / 255
    labels = torch.arange(1797) % 10  # not the digits' own
    classified = classify(points[:4], torch.tensor([0, 1, 1, 7]), points[:30], labels[:30], seed=0)
    assert set(classified.predicted) <= {0, 1, 7}
    assert np.isfinite(classified[:4]).all()


def test_metrics_are_flat(blobs):
    points, labels = blobs(60)
    classified = classify(points, labels, points, labels, seed=0)
    expected = {
        "prior_mmd": 0.25,
        "probe_accuracy": 1,
        "neighbor_accuracy": 1,
        "cluster_ari": pytest.approx(1),
        "cluster_nmi": pytest.approx(1),
    }
    errors = {f"{name}_stderr": pytest.approx(0) for name in expected} | {"prior_mmd_stderr": 0.01}
    assert metrics(points, Estimate(0.25, 0.01), classified) == {"active_units": 2, **expected, **errors}


def test_a_single_training_class_is_what_the_probe_answers(blobs):
    means, labels = blobs(60)
    found = classify(means, torch.full_like(labels, 2), means, labels, seed=0)
    assert found.probe_accuracy.value == found.neighbor_accuracy.value == pytest.approx(1 / 3)
    assert found.predicted.tolist() == [2] * 60
