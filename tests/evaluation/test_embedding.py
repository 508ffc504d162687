import numpy as np
import pytest
from sklearn.manifold import TSNE

from vae.evaluation import embedding
from vae.evaluation.embedding import embed

METHODS = ["tsne", "pca"]


def make_points(n=40, latent_dim=5):
    return np.random.default_rng(0).normal(size=(n, latent_dim)).astype(np.float32) * np.arange(1, latent_dim + 1)


@pytest.fixture
def perplexities(monkeypatch):
    """The perplexity of each t-SNE that is made."""
    seen = []

    class Recording(TSNE):
        def fit_transform(self, points):
            seen.append(self.perplexity)
            return super().fit_transform(points)

    monkeypatch.setattr(embedding, "TSNE", Recording)
    return seen


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_points_of_any_dimension_come_to_lie_in_the_plane(method, latent_dim):
    plane = embed(make_points(40, latent_dim), method, perplexity=5, seed=0)
    assert plane.shape == (40, 2)
    assert np.isfinite(plane).all()
    assert plane[:, 0].std() > 0


@pytest.mark.parametrize("latent_dim", [1, 5])
@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bytes(method, latent_dim):
    first, again = (embed(make_points(40, latent_dim), method, perplexity=5, seed=3) for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_the_seed_matters_where_tsne_starts_at_random():
    first, other = (embed(make_points(latent_dim=1), "tsne", perplexity=5, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("n", "expected"), [(10, 3), (31, 10), (40, 10)])
def test_perplexity_is_lowered_to_a_third_of_the_neighbors(perplexities, n, expected):
    assert embed(make_points(n), "tsne", perplexity=10, seed=0).shape == (n, 2)
    assert perplexities == [expected]


def test_tsne_keeps_separate_groups_apart():
    groups = np.repeat([0, 1], 20)
    points = make_points() + 100 * groups[:, None]
    plane = embed(points, "tsne", perplexity=5, seed=0)
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (groups[distances.argmin(axis=1)] == groups).all()


def test_pca_projects_on_the_two_leading_singular_vectors():
    points = make_points()
    centered = points - points.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centered, full_matrices=False)
    # float32 points; the sign of a singular vector is free.
    np.testing.assert_allclose(
        np.abs(embed(points, "pca", perplexity=5, seed=0)), np.abs(left[:, :2] * sizes[:2]), atol=1e-4
    )


def test_pca_of_one_dimension_is_that_dimension_centered_and_zeros():
    points = make_points(latent_dim=1)
    plane = embed(points, "pca", perplexity=5, seed=0)
    np.testing.assert_allclose(np.abs(plane[:, 0]), np.abs(points[:, 0] - points.mean()), atol=1e-6)
    np.testing.assert_array_equal(plane[:, 1], 0)


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_points_that_are_all_the_same_map_to_zeros(method, latent_dim):
    points = np.full((40, latent_dim), 0.3, np.float32)
    np.testing.assert_array_equal(embed(points, method, 5, 0), np.zeros((40, 2)))


@pytest.mark.parametrize("spread", [1e-30, 2e-12, 1e12])
def test_points_that_hardly_differ_are_embedded(spread):
    assert np.isfinite(embed(make_points() * np.float32(spread), "tsne", 5, 0)).all()


@pytest.mark.parametrize("alike", [39, 20])
def test_points_of_two_places_are_embedded(alike):
    points = np.ones((40, 2), np.float32)
    points[:alike] = 0.3
    assert np.isfinite(embed(points, "tsne", 5, 0)).all()
