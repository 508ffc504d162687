"""What pictures of a trained model show: which test images, and what the decoder makes of places in latent space."""

from typing import NamedTuple

import numpy as np
import torch

from vae.model import VAE


def first_of_each_class(labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Find the first images of each class: as many of each as the rarest class has, at most `count`.

    Args:
        labels: class of each image, int64 of shape `(n,)`.
        classes: number of classes, each of which occurs in `labels`.
        count: images of a class, at most.

    Returns:
        Indices into `labels`, of shape `(classes, examples)`.
    """
    return extremes_of_each_class(np.zeros(len(labels)), labels, classes, count)[0]


def extremes_of_each_class(values: np.ndarray, labels: np.ndarray, classes: int, count: int) -> np.ndarray:
    """Find the images of each class with the lowest and the highest values, equal ones in their order.

    Args:
        values: a number for each image, of shape `(n,)`.
        labels: class of each image, int64 of shape `(n,)`.
        classes: number of classes, each of which occurs in `labels`.
        count: images of a class, at most; fewer where the rarest class has fewer.

    Returns:
        Indices of shape `(2, classes, examples)`: the lowest, rising, and the highest, falling.
    """
    examples = min(count, np.bincount(labels, minlength=classes).min())
    members = [np.flatnonzero(labels == label) for label in range(classes)]
    ends = [
        [found[np.argsort(sign * values[found], kind="stable")[:examples]] for found in members] for sign in (1, -1)
    ]
    return np.array(ends)


@torch.inference_mode()
def reconstruct(model: VAE, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Decode the posterior means of images (..., height, width) with labels (...); of the images' shape."""
    flat = torch.from_numpy(images.reshape(-1, *images.shape[-2:])).float()
    return model.reconstruct(flat, torch.from_numpy(labels.ravel())).numpy().reshape(images.shape)


@torch.inference_mode()
def sample_each_class(model: VAE, draws: int, seed: int) -> np.ndarray:
    """Decode the same draws from a conditional model's prior for every class; (draws, classes, height, width)."""
    labels = [torch.full((draws,), label) for label in range(model.classes)]
    return torch.stack([model.sample(draws, seed, label) for label in labels], dim=1).numpy()


@torch.inference_mode()
def interpolate(model: VAE, means: np.ndarray, labels: np.ndarray, steps: int) -> np.ndarray:
    """Decode points on the straight lines from each posterior mean to the next one, from the last to the first.

    Args:
        model: on the CPU.
        means: float32 of shape `(n, latent_dim)`.
        labels: their images' classes, int64 of shape `(n,)`; a conditional model is given the nearer end's.
        steps: points on a line at equal distances, both ends included.

    Returns:
        The decoder's means, of shape `(n, steps, height, width)`.
    """
    share = np.linspace(0, 1, steps, dtype=np.float32)
    ends = np.roll(means, -1, axis=0)
    latents = means[:, None] + share[:, None] * (ends - means)[:, None]
    nearer = np.where(share < 0.5, labels[:, None], np.roll(labels, -1)[:, None])
    return _decode(model, latents, nearer)


@torch.inference_mode()
def traverse(
    model: VAE, mean: np.ndarray, spread: np.ndarray, dimensions: np.ndarray, steps: np.ndarray, label: int
) -> np.ndarray:
    """Decode a latent vector while one dimension after the other moves by `steps` times its spread.

    Args:
        model: on the CPU.
        mean: the vector, float32 of shape `(latent_dim,)`.
        spread: each dimension's unit, of the same shape.
        dimensions: those that move, int64 of shape `(k,)`.
        steps: how far they move, of shape `(s,)`.
        label: the image's class.

    Returns:
        The decoder's means, of shape `(k, s, height, width)`.
    """
    latents = np.tile(mean, (len(dimensions), len(steps), 1))
    for row, dimension in enumerate(dimensions):
        latents[row, :, dimension] += steps * spread[dimension]
    return _decode(model, latents, label)


class Plane(NamedTuple):
    """A grid over two latent dimensions: decoded (rows, columns, height, width), its coordinates and what they are."""

    decoded: np.ndarray
    across: np.ndarray
    up: np.ndarray
    places: str


@torch.inference_mode()
def decode_plane(model: VAE, means: np.ndarray, size: int, label: int) -> Plane:
    """Decode a two-dimensional latent space at `size` times `size` places, the second dimension falling by rows.

    Under a standard normal prior they are its quantiles (Kingma & Welling 2014, figure 4), under any other those of
    the test images' posterior means, of shape (n, 2). A conditional model is given the label of one class.
    """
    # Equal shares of the probability, with half a share beyond each end.
    shares = (np.arange(size) + 0.5) / size
    settings = model.metadata["model"]
    if settings["levels"] == "one" and settings["prior"] == "standard_normal":
        across = rising = torch.special.ndtri(torch.from_numpy(shares)).numpy()
        places = "the prior's quantiles"
    else:
        across, rising = np.quantile(means, shares, axis=0).T
        places = "the posterior means' quantiles"
    up = rising[::-1]
    grid = np.stack(np.meshgrid(across, up), axis=-1).astype(np.float32)
    return Plane(_decode(model, grid, label), across, up, places)


class Uncertainty(NamedTuple):
    """What is known of each pixel of n images, each (n, height, width): see `uncertainty`."""

    mean: np.ndarray
    latent_deviation: np.ndarray
    noise_deviation: np.ndarray


@torch.inference_mode()
def uncertainty(model: VAE, images: np.ndarray, labels: np.ndarray, draws: int, seed: int) -> Uncertainty:
    """Split each pixel's predictive variance by the law of total variance: Var x = Var_z E[x | z] + E_z Var[x | z].

    Over `draws` from the posterior of each of n images (n, height, width) with labels int64 (n,). The mean is
    E_z E[x | z]; the deviations are the roots of the two terms, in units of a pixel from 0 to 1.
    """
    shown, classes = torch.from_numpy(images).float(), torch.from_numpy(labels)
    pixels = model.pixels(model.draw_posterior(shown, draws, seed, classes), classes)
    means = pixels.mean
    parts = means.mean(0), means.var(0, correction=0).sqrt(), pixels.variance.mean(0).sqrt()
    return Uncertainty(*(part.numpy() for part in parts))


def _decode(model: VAE, latents: np.ndarray, labels: np.ndarray | int) -> np.ndarray:
    return model.decode(torch.from_numpy(latents), torch.as_tensor(labels)).numpy()
