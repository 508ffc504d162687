"""The latent space in two dimensions."""

from typing import Literal

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

_SAME = 1e-12  # spread of points that count as the same: its square is still a normal number in float32


def embed(points: np.ndarray, method: Literal["tsne", "pca"], perplexity: float, seed: int) -> np.ndarray:
    """Map points of shape (n, latent_dim) to two dimensions, shape (n, 2), reproducibly.

    t-SNE (van der Maaten & Hinton 2008) starts from the principal components; its perplexity is lowered if
    there are too few points for it. Points that are all the same, as after a posterior collapse, map to zeros.
    """
    if np.ptp(points, axis=0).max() < _SAME:
        return np.zeros((len(points), 2), np.float32)  # t-SNE would divide by a spread of zero and crash
    if method == "pca":
        # A one-dimensional latent space gets a second dimension of zeros.
        padded = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
        return PCA(2, svd_solver="full").fit_transform(padded)
    perplexity = min(perplexity, (len(points) - 1) / 3)
    init = "pca" if points.shape[1] >= 2 else "random"
    # With more threads the order in which forces are summed varies, and with it the result.
    with threadpool_limits(1):
        return TSNE(2, perplexity=perplexity, init=init, random_state=seed).fit_transform(points)
