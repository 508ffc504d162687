"""The likelihood of images under a model: ELBO, importance-sampled log-likelihood and effective sample size."""

import math
from typing import NamedTuple

import psutil
import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from vae.data.images import Split, pixels
from vae.evaluation.uncertainty import Estimate, difference, flat, over_images
from vae.model import VAE
from vae.model.bounds import weight_and_elbo_terms

# Decoded images per chunk if memory allows. On a CPU a chunk should fit in the cache, on a GPU keep it busy.
_CHUNK_ROWS = {"cpu": 2_000, "cuda": 200_000}
_CHUNK_DRAWS = 100


class Scores(NamedTuple):
    """Scores of n images from K draws of z each: float64 (n,) on the CPU, in nats unless noted.

    `log_likelihood` is log p(x) by importance sampling and `half_log_likelihood` the same from the first K // 2 draws
    (minus infinity for K = 1); `effective_samples` is the number of equally weighted draws that the weights are worth,
    from 1 to K; `reconstruction_nll` and `kl` are the two terms of the ELBO.
    """

    log_likelihood: Tensor
    half_log_likelihood: Tensor
    effective_samples: Tensor
    reconstruction_nll: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound of each image, float64 (n,)."""
        return -self.reconstruction_nll - self.kl


@torch.no_grad()
def score(model: VAE, split: Split, samples: int, seed: int) -> Scores:
    """Score a split's images with `samples` draws of z per image, in bounded memory.

    The split is on the model's device. The log-likelihood is the importance-weighted bound log 1/K sum_k w_k of K =
    `samples` weights w_k = p(x, z_k) / q(z_k | x) (Burda et al. 2015, equation 8), which reaches log p(x) from below as
    K grows; the ELBO's terms are means over the same draws. The effective sample size is (sum_k w_k)^2 / sum_k w_k^2
    (Kong 1992).

    Draws go through the decoder in chunks. The chunk size decides which random numbers an image gets. It is the
    device's preferred size, halved until it fits into free memory; results repeat exactly as long as it fits at once.
    """
    pyro.set_rng_seed(seed)
    rows = _chunk_rows(model, split.labels)
    draws = min(samples, rows, _CHUNK_DRAWS)
    parts = []
    with tqdm(total=len(split), unit="image", desc=f"{samples} importance samples", disable=None) as bar:
        for batch in split.batches(rows // draws):
            scores = _score_batch(model, pixels(batch.images, draw=False), batch.labels, samples, draws)
            parts.append([part.cpu() for part in scores])
            bar.update(len(batch))
    return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _score_batch(model: VAE, images: Tensor, labels: Tensor, samples: int, draws: int) -> Scores:
    reconstruction = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    kl = torch.zeros_like(reconstruction)
    # Logarithms of running sums: the weights of the first half, the other weights, all squared weights.
    first, second, squares = torch.full((3, len(images)), -math.inf, dtype=torch.float64, device=images.device)
    half = samples // 2
    for start in range(0, samples, draws):
        count = min(draws, samples - start)
        weights, terms = weight_and_elbo_terms(model.model, model.guide, count, images, labels)
        log_weights, boundary = weights.log_weights.double(), max(half - start, 0)
        first = torch.logaddexp(first, log_weights[:boundary].logsumexp(dim=0))
        second = torch.logaddexp(second, log_weights[boundary:].logsumexp(dim=0))
        squares = torch.logaddexp(squares, (2 * log_weights).logsumexp(dim=0))
        reconstruction -= terms.log_likelihood.double().sum(dim=0)
        kl += terms.kl.double().sum(dim=0)
    total = torch.logaddexp(first, second)
    return Scores(
        log_likelihood=total - math.log(samples),
        half_log_likelihood=first - math.log(max(half, 1)),
        effective_samples=(2 * total - squares).exp(),
        reconstruction_nll=reconstruction / samples,
        kl=kl / samples,
    )


def _chunk_rows(model: VAE, labels: Tensor) -> int:
    # Half of the memory, as the estimate ignores the prior and the posterior.
    affordable = _free_memory(labels.device) // (2 * _bytes_per_row(model, labels))
    rows = _CHUNK_ROWS[labels.device.type]
    while rows > max(affordable, 1):
        rows //= 2
    return rows


def _bytes_per_row(model: VAE, labels: Tensor) -> int:
    """An estimate of the most bytes that one decoded draw takes: all of the decoder's outputs, and the density."""
    sizes = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: sizes.append(output.nbytes))
        for module in model.decoder.modules()
    ]
    try:
        model.sample(1, seed=0, labels=labels[:1])
    finally:
        for hook in hooks:
            hook.remove()
    # A likelihood's density makes a handful of tensors the size of its input, the last output.
    return sum(sizes) + 4 * sizes[-1]


def _free_memory(device: torch.device) -> int:
    if device.type == "cpu":
        return psutil.virtual_memory().available
    held_in_reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held_in_reserve


def metrics(scores: Scores, dimensions: int, training_elbo: Tensor) -> dict[str, float]:
    """Summarize a test set's scores as flat metrics: means over images in nats, with standard errors.

    `training_elbo` is the ELBO of training images under the same weights, (m,): `elbo_gap` is its mean minus the test
    set's. `bits_per_dim` is the negative log-likelihood in bits, divided by an image's `dimensions` (channels times
    pixels); for continuous pixels it is based on a density.
    `importance_ess` is the mean effective sample size in draws; `nll_gain_last_half` is the decrease of the
    negative log-likelihood from K // 2 to K draws, omitted for K = 1.
    """
    elbo, nll = over_images(scores.elbo), over_images(-scores.log_likelihood)
    bits = dimensions * math.log(2)
    gain = over_images(scores.log_likelihood - scores.half_log_likelihood)
    estimates = {
        "test_elbo": elbo,
        "test_nll": nll,
        "importance_ess": over_images(scores.effective_samples),
        "nll_gain_last_half": gain,
        "bits_per_dim": Estimate(nll.value / bits, nll.error / bits),
        "elbo_gap": difference(over_images(training_elbo), elbo),
        "reconstruction_nll": over_images(scores.reconstruction_nll),
        "kl": over_images(scores.kl),
    }
    if not math.isfinite(gain.value):
        del estimates["nll_gain_last_half"]
    return flat(estimates)
