"""How close samples from a model are to real images, in a classifier's features and in pixels."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vae import ranks
from vae.evaluation.classifier import Judgment
from vae.evaluation.uncertainty import Estimate, flat, over_draws, over_images, ratio
from vae.model import VAE
from vae.seeds import derive

_BATCH = 1_000  # images decoded per batch
_CHUNK = 10_000_000  # distances held at a time, 40 MB
_RESAMPLES, _PARTS = 50, 10


@torch.no_grad()
def generate(model: VAE, n: int, seed: int, number: int = 0) -> Tensor:
    """Draw the set `number` of n images, uint8 (n, channels, height, width) from 0 to 255, on the model's device.

    Binary pixels are drawn from p(x | z), as in the data. Gray pixels are the mean of p(x | z): the noise of
    independent pixels looks like no image and would dominate the measures. A conditional model draws the same number
    of images for each class. Ranks share the decoding, and all of them return the whole set.
    """
    device = next(model.parameters()).device
    # Each part has its own seed: a shared one would repeat images, successive ones would repeat those of other runs.
    generator = torch.Generator().manual_seed(derive(seed, f"sample.latents.{number}"))
    seeds = torch.randint(2**32, (len(range(0, n, _BATCH)),), generator=generator).tolist()
    noise = torch.Generator(device).manual_seed(derive(seed, f"sample.pixels.{number}"))
    labels = torch.arange(n, device=device) % model.classes if model.classes else None

    def decode(part: tuple[int, int]) -> Tensor:
        start, part_seed = part
        size = min(_BATCH, n - start)
        chosen = None if labels is None else labels[start : start + size]
        return model.draw_prior(size, part_seed, chosen)[1].mean.cpu()

    parts = []
    for means in ranks.share_out(decode, list(zip(range(0, n, _BATCH), seeds, strict=True))):
        means = means.to(device)
        if model.likelihood.binary:
            means = torch.bernoulli(means, generator=noise)
        parts.append((means * 255).round().to(torch.uint8))
    return torch.cat(parts)


def metrics(
    sets: Sequence[Judgment], test: Judgment, training: Judgment, neighbors: int, seed: int
) -> dict[str, float]:
    """Compare sets of samples with test images; keys with `_real` compare training images with them, as a reference.

    Values are means over the sets. Standard errors cover the draws of samples and the choice of test images; they do
    not cover the classifier, which another seed would train otherwise.
    """
    real, known = (estimate_manifold(judged.features, neighbors) for judged in (test, training))
    found = [coverage(test.features, estimate_manifold(judged.features, neighbors)).double() for judged in sets]
    estimates = {
        "frechet_distance": over_draws(
            [frechet_distance(judged.features, test.features) for judged in sets],
            frechet_error(sets[0].features, test.features, seed),
        ),
        "precision": over_draws(
            [coverage(judged.features, real).double().mean().item() for judged in sets],
            manifold_error(sets[0].features, test.features, neighbors),
        ),
        "recall": over_draws(
            [inside.mean().item() for inside in found], over_images(torch.stack(found).mean(dim=0)).error
        ),
        "sample_confidence": over_images(torch.cat([confidence(judged.probabilities) for judged in sets])),
        "test_confidence": over_images(confidence(test.probabilities)),
        "class_balance": over_draws([class_balance(judged.probabilities) for judged in sets]),
    }
    return flat(estimates) | {
        "frechet_distance_real": frechet_distance(training.features, test.features),
        "precision_real": coverage(training.features, real).double().mean().item(),
        "recall_real": coverage(test.features, known).double().mean().item(),
    }


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The Frechet distance between normals fitted to two sets of features.

    The sets have shapes (n, d) and (m, d), n and m at least 2. With their means m and covariances C the distance
    is |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), in squared units of the features (Heusel et al. 2017,
    equation 6): distances are comparable only within the same classifier's features.
    """
    return _distance(_moments(first.cpu().double()), _moments(second.cpu().double()))


def frechet_error(samples: Tensor, images: Tensor, seed: int) -> float:
    """The standard error of `frechet_distance` over the choice of images (m, d), by 50 bootstrap resamples."""
    own, features = _moments(samples.cpu().double()), images.cpu().double()
    generator = torch.Generator().manual_seed(derive(seed, "sample.bootstrap"))
    chosen = (torch.randint(len(features), (len(features),), generator=generator) for _ in range(_RESAMPLES))
    distances = [_distance(own, _moments(features[resample])) for resample in chosen]
    return torch.tensor(distances, dtype=torch.float64).std().item()


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(dim=0), features.T.cov()


def _distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    (mean_1, covariance_1), (mean_2, covariance_2) = first, second
    values, vectors = torch.linalg.eigh(covariance_1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # C_1 C_2 is not symmetric, but C_1^(1/2) C_2 C_1^(1/2) is, and has its eigenvalues.
    shared = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    between = (mean_1 - mean_2).square().sum()
    return (between + covariance_1.trace() + covariance_2.trace() - 2 * shared).clamp(min=0).item()


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


def coverage(features: Tensor, manifold: Manifold) -> Tensor:
    """Whether each of the features (n, d) lies in a ball of the manifold, bool (n,).

    The share of generated images in the manifold of real ones is precision; the reverse is recall
    (Kynkäänniemi et al. 2019, equations 1 and 2).
    """
    chunks = _squared_distances(features, manifold.centers)
    return torch.cat([(distances <= manifold.squared_radii).any(dim=1) for distances in chunks])


def manifold_error(features: Tensor, centers: Tensor, neighbors: int) -> float:
    """The standard error of the share of features (n, d) in a manifold over the choice of its images (m, d).

    A few wide balls decide much of that share, so that it varies more with the manifold's images than with the n that
    are asked. It is estimated from ten manifolds of a tenth of the images each, as if their spread fell with the square
    root of their size: within a factor of 2.
    """
    parts = [centers[start::_PARTS] for start in range(min(_PARTS, len(centers)))]
    shares = [coverage(features, estimate_manifold(part, neighbors)).double().mean().item() for part in parts]
    return over_draws(shares).error


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

    Images and references are uint8 (n, channels, height, width) and (m, channels, height, width); references may stay
    on the CPU, from where they come chunk by chunk. Returns distances, float32 (n,), and indices of references, int64
    (n,), on the images' device.
    """
    points = images.flatten(1).float() / 255
    best = torch.full((len(points),), torch.inf, device=points.device)
    indices = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    size = max(_CHUNK // len(points), 1)
    for number, chunk in enumerate(references.split(size)):
        others = chunk.to(points.device).flatten(1).float() / 255
        # The squared distance minus the image's own squared norm, which is the same for all references.
        values, places = torch.addmm(others.square().sum(dim=1), points, others.T, alpha=-2).min(dim=1)
        nearer = values < best
        best = torch.where(nearer, values, best)
        indices = torch.where(nearer, places + number * size, indices)
    # Recomputed, as rounding in `best` turns exact zeros into small numbers.
    found = references[indices.to(references.device)].to(points.device)
    distances = (points - found.flatten(1).float() / 255).norm(dim=1)
    return distances, indices


def distance_ratio(distances: Tensor, usual: Tensor) -> dict[str, Estimate]:
    """The mean distance of samples to their nearest training images, divided by that of test images.

    Both have shape (n,). A ratio far below 1 means that the model repeats training images. There is none if all test
    images are copies of training images.
    """
    return {"neighbor_distance_ratio": ratio(over_images(distances), over_images(usual))} if usual.any() else {}
