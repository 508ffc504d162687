"""How good a model is: ELBO, importance-sampled log-likelihood, reconstruction error, use of the latent space."""

import math
from typing import NamedTuple

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from vae.model import VAE
from vae.objectives import weight_and_elbo_terms
from vae.preparation import Split
from vae.step import pixels

# Decoded images held at once. On a CPU a chunk should stay in its cache, on a GPU fill its units.
_CHUNK_ROWS = {"cpu": 2_000, "cuda": 200_000}
_ACTIVE_VARIANCE = 0.01


class Scores(NamedTuple):
    """What was measured for each of n images, on the CPU: float64 (n,), nats; `mean` is float32 (n, latent_dim).

    `log_likelihood` is log p(x) by importance sampling, `reconstruction_nll` and `kl` the two terms of the ELBO,
    `mse` the squared error a pixel of the posterior mean's reconstruction, `mean` the posterior mean itself.
    """

    log_likelihood: Tensor
    reconstruction_nll: Tensor
    kl: Tensor
    mse: Tensor
    mean: Tensor

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound of each image, float64 (n,)."""
        return -self.reconstruction_nll - self.kl


@torch.no_grad()
def score(model: VAE, split: Split, samples: int, seed: int) -> Scores:
    """Measure a split's images with `samples` draws of z each, in bounded memory.

    The images are uint8 (n, height, width), the labels int64 (n,), both on the model's device. The log-likelihood is
    the importance-weighted bound log 1/K sum_k p(x, z_k) / q(z_k | x) with K = samples (Burda et al. 2015,
    equation 8), which reaches log p(x) from below as K grows; the ELBO's terms are means over the same draws.
    """
    pyro.set_rng_seed(seed)
    images, labels = split["images"], split["labels"]
    rows = _CHUNK_ROWS[images.device.type]
    draws = min(samples, 100)
    size = max(rows // draws, 1)
    parts = []
    with tqdm(total=len(images), unit="image", desc=f"{samples} importance samples", disable=None) as bar:
        for batch, classes in zip(images.split(size), labels.split(size), strict=True):
            scores = _score_batch(model, pixels(batch, draw=False), classes, samples, draws)
            parts.append([part.cpu() for part in scores])
            bar.update(len(batch))
    return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _score_batch(model: VAE, images: Tensor, labels: Tensor, samples: int, draws: int) -> Scores:
    log_sum = torch.full((len(images),), -math.inf, dtype=torch.float64, device=images.device)
    reconstruction, kl = torch.zeros_like(log_sum), torch.zeros_like(log_sum)
    for start in range(0, samples, draws):
        count = min(draws, samples - start)
        weights, terms = weight_and_elbo_terms(model.model, model.guide, count, images, labels)
        log_sum = torch.logaddexp(log_sum, weights.elbo.double().logsumexp(dim=0))
        reconstruction -= terms.log_likelihood.double().sum(dim=0)
        kl += terms.kl.double().sum(dim=0)
    mean = model.represent(images, labels)
    mse = (model.decode(mean, labels) - images).square().mean(dim=(-2, -1)).double()
    return Scores(log_sum - math.log(samples), reconstruction / samples, kl / samples, mse, mean)


def metrics(scores: Scores) -> dict[str, float]:
    """Sum up the scores of a test set as flat metrics: means over images in nats, with standard errors."""
    elbo, elbo_error = mean_and_error(scores.elbo)
    nll, nll_error = mean_and_error(-scores.log_likelihood)
    return {
        "test_elbo": elbo,
        "test_elbo_stderr": elbo_error,
        "test_nll": nll,
        "test_nll_stderr": nll_error,
        "reconstruction_nll": scores.reconstruction_nll.mean().item(),
        "reconstruction_mse": scores.mse.mean().item(),
        "kl": scores.kl.mean().item(),
        "active_units": active_units(scores.mean),
    }


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of values (n,) and its standard error over images; 0 for a single value."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return values.mean().item(), error


def active_units(means: Tensor) -> int:
    """The number of latent dimensions that depend on the image, for posterior means of shape (n, latent_dim).

    A dimension is active when its posterior mean varies over images by more than 0.01 (Burda et al. 2015, section 5.3).
    """
    return int((means.double().var(dim=0) > _ACTIVE_VARIANCE).sum())
