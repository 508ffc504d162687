"""How close samples from a model are to real images, in a classifier's features and in pixels."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vae.evaluation.classifier import Judgement
from vae.model import VAE
from vae.seeds import derive

_BATCH = 1_000  # images decoded per batch
_CHUNK = 10_000_000  # distances held at a time, 40 MB


@torch.no_grad()
def generate(model: VAE, n: int, seed: int) -> Tensor:
    """Draw n images, uint8 (n, channels, height, width) from 0 to 255, on the model's device.

    Binary pixels are drawn from p(x | z), as in the data. Gray pixels are the mean of p(x | z): the noise of
    independent pixels looks like no image and would dominate the measures. A conditional model draws the same number
    of images for each class.
    """
    device = next(model.parameters()).device
    # Each part has its own seed: a shared one would repeat images, successive ones would repeat those of other runs.
    generator = torch.Generator().manual_seed(derive(seed, "sample.latents"))
    seeds = torch.randint(2**32, (len(range(0, n, _BATCH)),), generator=generator).tolist()
    noise = torch.Generator(device).manual_seed(derive(seed, "sample.pixels"))
    labels = torch.arange(n, device=device) % model.classes if model.classes else None
    parts = []
    for start, part_seed in zip(range(0, n, _BATCH), seeds, strict=True):
        part = slice(start, min(start + _BATCH, n))
        chosen = None if labels is None else labels[part]
        means = model.draw_prior(part.stop - part.start, part_seed, chosen)[1].mean
        if model.likelihood.binary:
            means = torch.bernoulli(means, generator=noise)
        parts.append((means * 255).round().to(torch.uint8))
    return torch.cat(parts)


def metrics(samples: Judgement, test: Judgement, training: Judgement, neighbors: int) -> dict[str, float]:
    """Compare samples with test images; keys with `_real` compare training images with them, as a reference."""
    drawn, real, known = (estimate_manifold(judged.features, neighbors) for judged in (samples, test, training))
    return {
        "frechet_distance": frechet_distance(samples.features, test.features),
        "frechet_distance_real": frechet_distance(training.features, test.features),
        "precision": coverage(samples.features, real),
        "precision_real": coverage(training.features, real),
        "recall": coverage(test.features, drawn),
        "recall_real": coverage(test.features, known),
        "sample_confidence": confidence(samples.probabilities).mean().item(),
        "test_confidence": confidence(test.probabilities).mean().item(),
        "class_balance": class_balance(samples.probabilities),
    }


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The Frechet distance between normals fitted to two sets of features.

    The sets have shapes (n, d) and (m, d), n and m at least 2. With their means m and covariances C the distance
    is |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), in squared units of the features (Heusel et al. 2017,
    equation 6): distances are comparable only within the same classifier's features.
    """
    (mean_1, covariance_1), (mean_2, covariance_2) = (_moments(features) for features in (first, second))
    values, vectors = torch.linalg.eigh(covariance_1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # C_1 C_2 is not symmetric, but C_1^(1/2) C_2 C_1^(1/2) is, and has its eigenvalues.
    shared = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    between = (mean_1 - mean_2).square().sum()
    return (between + covariance_1.trace() + covariance_2.trace() - 2 * shared).clamp(min=0).item()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.cpu().double()
    return features.mean(dim=0), features.T.cov()


class Manifold(NamedTuple):
    """A manifold estimate: balls around features (n, d), with squared radii of shape (n,)."""

    centers: Tensor
    squared_radii: Tensor


def estimate_manifold(features: Tensor, neighbors: int) -> Manifold:
    """Put a ball around each of n features (n, d), up to its k-th nearest neighbor among the others.

    The number k = `neighbors` is lowered if there are too few (Kynkäänniemi et al. 2019, section 3.1).
    """
    # The nearest one is the image itself.
    count = min(neighbors + 1, len(features))
    radii = [distances.topk(count, largest=False).values[:, -1] for distances in _squared_distances(features, features)]
    return Manifold(features, torch.cat(radii))


def coverage(features: Tensor, manifold: Manifold) -> float:
    """The share of features (n, d) that lie in a ball of the manifold, from 0 to 1.

    For generated images and the manifold of real ones this is precision; for the reverse it is recall
    (Kynkäänniemi et al. 2019, equations 1 and 2).
    """
    chunks = _squared_distances(features, manifold.centers)
    inside = [(distances <= manifold.squared_radii).any(dim=1) for distances in chunks]
    return torch.cat(inside).double().mean().item()


def _squared_distances(points: Tensor, centers: Tensor) -> Iterator[Tensor]:
    lengths = centers.square().sum(dim=1)
    for chunk in points.split(max(_CHUNK // len(centers), 1)):
        yield torch.addmm(lengths, chunk, centers.T, alpha=-2).add_(chunk.square().sum(dim=1, keepdim=True))


def confidence(probabilities: Tensor) -> Tensor:
    """The probability of each image's most probable class, shape (n,), for probabilities (n, classes)."""
    return probabilities.amax(dim=1)


def class_balance(probabilities: Tensor) -> float:
    """How evenly images fall into classes, given probabilities (n, classes): 1 if all classes are equally frequent.

    This is the exponential of the mean probabilities' entropy, the effective number of classes, divided by `classes`.
    """
    entropy = torch.special.entr(probabilities.double().mean(dim=0)).sum()
    return entropy.exp().item() / probabilities.shape[1]


def nearest(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Find the reference nearest to each image by Euclidean distance of pixels in [0, 1].

    Images and references are uint8 (n, channels, height, width) and (m, channels, height, width). Returns distances,
    float32 (n,), and indices of references, int64 (n,).
    """
    points = images.flatten(1).float() / 255
    best = torch.full((len(points),), torch.inf, device=points.device)
    indices = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    size = max(_CHUNK // len(points), 1)
    for number, chunk in enumerate(references.split(size)):
        others = chunk.flatten(1).float() / 255
        # The squared distance minus the image's own squared norm, which is the same for all references.
        values, places = torch.addmm(others.square().sum(dim=1), points, others.T, alpha=-2).min(dim=1)
        nearer = values < best
        best = torch.where(nearer, values, best)
        indices = torch.where(nearer, places + number * size, indices)
    # Recomputed, as rounding in `best` turns exact zeros into small numbers.
    distances = (points - references[indices].flatten(1).float() / 255).norm(dim=1)
    return distances, indices


def distance_ratio(distances: Tensor, usual: Tensor) -> dict[str, float]:
    """The median distance of samples to their nearest training images, divided by that of test images.

    Both have shape (n,). A ratio far below 1 means that the model repeats training images. There is none if most test
    images are copies of training images.
    """
    ratio = (distances.median() / usual.median()).item()
    return {"neighbor_distance_ratio": ratio} if usual.median() else {}
