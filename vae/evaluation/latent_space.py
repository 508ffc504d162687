"""Measures of the latent space: active dimensions, fit to the prior, and how well it separates classes.

Labels serve for evaluation only. scikit-learn runs on one thread, as the order of sums varies with more.
"""

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from vae.data.images import Split, pixels
from vae.evaluation.uncertainty import Estimate, flat, over_draws, over_images
from vae.model import VAE

_BATCH = 1_000
_ACTIVE_VARIANCE = 0.01
_POSTERIOR_DRAWS, _PRIOR_DRAWS = 100, 10_000
_MMD_DRAWS, _MMD_POINTS = 5, 1_000
_CLUSTER_STARTS = 4
_NEIGHBORS = 5  # odd, so that two classes cannot tie; few, so that all are close


class Classified(NamedTuple):
    """How well posterior means predict classes: shares of n test images, agreements of at most 1, and int64 (n,)."""

    probe_accuracy: Estimate
    neighbor_accuracy: Estimate
    cluster_ari: Estimate
    cluster_nmi: Estimate
    predicted: np.ndarray


@torch.no_grad()
def represent(model: VAE, split: Split) -> Tensor:
    """The posterior means of a split's images; float32 (n, latent_dim) on the CPU."""
    return torch.cat([model.representation_given(images, labels).cpu() for images, labels in _batches(split)])


def active_units(means: Tensor) -> int:
    """The number of latent dimensions that depend on the image, for posterior means of shape (n, latent_dim).

    A dimension is active when its posterior mean varies over images by more than 0.01 (Burda et al. 2015, section 5.3).
    """
    return int((means.double().var(dim=0) > _ACTIVE_VARIANCE).sum())


@torch.no_grad()
def kl_per_dimension(model: VAE, split: Split, seed: int) -> Tensor:
    """Each latent dimension's KL from posterior to prior in nats, averaged over images; float32 (latent_dim,).

    Both are treated as normals: each posterior with the mean and variance of 100 draws per image, the prior with
    those of 10,000 draws. Up to sampling noise this is exact for diagonal normal posteriors and a standard normal
    prior, where the dimensions add up to the ELBO's KL. Otherwise it is an approximation that uses only means and
    variances and ignores dependence between dimensions.
    """
    prior_seed, posterior_seed = _seeds(seed, 2)
    prior = _prior_draws(model, _PRIOR_DRAWS, prior_seed).double()
    mean, variance = prior.mean(dim=0), prior.var(dim=0)
    # The bias of the log of a normal's sample variance.
    degrees = torch.tensor((_POSTERIOR_DRAWS - 1) / 2, dtype=torch.float64)
    bias = degrees.digamma() - degrees.log()
    total = torch.zeros_like(mean)
    for draws in _posterior_draws(model, split, _POSTERIOR_DRAWS, posterior_seed):
        own_variance, own_mean = torch.var_mean(draws.double(), dim=0)
        # The square of a sample mean is biased upward by the mean's variance.
        shift = (own_mean - mean).square() - own_variance / _POSTERIOR_DRAWS
        ratio = own_variance / variance
        total += 0.5 * (ratio - 1 - ratio.log() + bias + shift / variance).sum(dim=0)
    # An inactive dimension may come out slightly below zero.
    return (total / len(split)).clamp(min=0).float().cpu()


@torch.no_grad()
def prior_mmd(model: VAE, split: Split, seed: int) -> Estimate:
    """The distance of the aggregate posterior from the prior: the mean of 5 values of `mmd`, each of other images.

    Each is of at most 1,000 draws from either, one per image.
    """
    draws = min(_MMD_DRAWS, len(split) // 2)  # a value needs two images
    # Spread over the whole set: the two halves of MNIST's test images come from different writers.
    stride = max(draws, math.ceil(len(split) / _MMD_POINTS))
    values = []
    for start, own in enumerate(_seeds(seed, draws)):
        prior_seed, posterior_seed = _seeds(own, 2)
        some = split[start::stride]
        aggregate = torch.cat([draws[0] for draws in _posterior_draws(model, some, 1, posterior_seed)])
        values.append(mmd(aggregate, _prior_draws(model, len(aggregate), prior_seed)))
    return over_draws(values)


def mmd(points: Tensor, others: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of two samples (n, dim) and (m, dim), n, m > 1.

    Gretton et al. 2012, equation 3, with the kernel exp(-|x - y|^2 / 2 s^2), s the median distance between any two
    points of both samples. Its mean is 0 if the distributions are equal, so it can be negative.
    """
    both = torch.cat([points, others]).double()
    n, m = len(points), len(others)
    kernel = torch.exp(-(torch.cdist(both, both) / torch.pdist(both).median()).square() / 2)
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return (within - 2 * kernel[:n, n:].mean()).item()


def classify(training: Tensor, training_labels: Tensor, means: Tensor, labels: Tensor, seed: int) -> Classified:
    """Predict the classes of test images from posterior means, (n, latent_dim), after learning from training images.

    The probe is a logistic regression on standardized means, the neighbors are the five nearest training images. The
    clusters are those of a mixture of as many normals as there are classes, fitted to the test images without their
    labels and compared with these by the adjusted Rand index and the normalized mutual information (0 by chance, 1 for
    the same partition). Of four starts the most likely mixture counts; the error is the standard deviation over starts.
    """
    given, known, asked, answers = (part.numpy() for part in (training, training_labels, means, labels))
    with threadpool_limits(1):
        # There is nothing to regress on a single class.
        learner = LogisticRegression(max_iter=1_000) if len(np.unique(known)) > 1 else DummyClassifier()
        probe = make_pipeline(StandardScaler(), learner).fit(given, known)
        neighbors = KNeighborsClassifier(min(_NEIGHBORS, len(given)), algorithm="brute").fit(given, known)
        predicted = neighbors.predict(asked)
        clusters = _clusters(asked, len(np.unique(answers)), seed)
        return Classified(
            probe_accuracy=over_images(torch.from_numpy(probe.predict(asked) == answers)),
            neighbor_accuracy=over_images(torch.from_numpy(predicted == answers)),
            cluster_ari=_first([adjusted_rand_score(answers, found) for found in clusters]),
            cluster_nmi=_first([normalized_mutual_info_score(answers, found) for found in clusters]),
            predicted=predicted,
        )


def metrics(means: Tensor, mmd_to_prior: Estimate, classified: Classified) -> dict[str, float]:
    """The flat metrics of the latent space, for posterior means of shape (n, latent_dim)."""
    named = {name: value for name, value in classified._asdict().items() if name != "predicted"}
    return {"active_units": active_units(means), **flat({"prior_mmd": mmd_to_prior, **named})}


def _first(values: list[float]) -> Estimate:
    """The first of several starts' values, and their standard deviation: how far another start may be."""
    return Estimate(float(values[0]), float(np.std(values, ddof=1)))


def _clusters(points: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """The cluster of each point (n, dim) from several starts, the most likely mixture first."""
    with warnings.catch_warnings():
        # Fewer distinct points than clusters, as with a collapsed posterior, or a mixture that has not converged:
        # neither prevents the comparison of clusters with classes.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixtures = [
            GaussianMixture(count, max_iter=300, random_state=own).fit(points.astype(np.float64))
            for own in _seeds(seed, _CLUSTER_STARTS)
        ]
    ordered = sorted(mixtures, key=lambda mixture: mixture.lower_bound_, reverse=True)
    return [mixture.predict(points.astype(np.float64)) for mixture in ordered]


def _batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in split.batches(_BATCH):
        yield pixels(batch.images, binarize=False), batch.labels


def _posterior_draws(model: VAE, split: Split, n: int, seed: int) -> Iterator[Tensor]:
    """Draws of shape (n, batch, latent_dim), one batch of images at a time."""
    seeds = _seeds(seed, math.ceil(len(split) / _BATCH))
    for (images, labels), own in zip(_batches(split), seeds, strict=True):
        yield model.draw_posterior(images, n, own, labels)


def _prior_draws(model: VAE, n: int, seed: int) -> Tensor:
    """Prior draws of shape (n, latent_dim), which do not depend on a label."""
    labels = torch.zeros(n, dtype=torch.int64, device=next(model.parameters()).device).split(_BATCH)
    seeds = _seeds(seed, len(labels))
    return torch.cat([model.draw_prior(len(part), own, part)[0] for part, own in zip(labels, seeds, strict=True)])


def _seeds(seed: int, count: int) -> list[int]:
    """Independent seeds: with a single one, prior and posterior would share their noise."""
    return np.random.SeedSequence(seed).generate_state(count).tolist()
