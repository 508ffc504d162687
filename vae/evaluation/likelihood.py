"""The likelihood of images under a model: ELBO, importance-sampled log-likelihood and effective sample size."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from vae import ranks
from vae.data.images import Split, pixels
from vae.device import seeded
from vae.evaluation.slices import decoding_in_slices
from vae.evaluation.uncertainty import Estimate, difference, flat, over_images
from vae.model import VAE
from vae.model.bounds import weight_and_elbo_terms
from vae.seeds import derive

# Decoded images at a time, on which an image's random numbers depend: on a CPU they should fit in the cache, on a GPU
# keep it busy.
_CHUNK_ROWS = {"cpu": 2_000, "cuda": 10_000}
_CHUNK_DRAWS, _CHUNK_IMAGES = 100, 1_000


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

    Images are scored in chunks of a fixed size. Each has a seed of its own, derived from `seed` and its number, so that
    its scores depend on no other chunk. If memory runs out, a chunk's draws are decoded in smaller slices, with a
    printed line; the draws stay the same, and scores change by no more than the rounding of float32 (about 1e-6 of
    their size). Ranks share the chunks, and all of them return the scores of the whole split.
    """
    device = split.images.device
    rows = _CHUNK_ROWS[device.type]
    draws = min(samples, rows, _CHUNK_DRAWS)
    description, hidden = f"{samples} importance samples", ranks.rank() > 0 or None
    bar = tqdm(total=len(split), unit="image", desc=description, disable=hidden)

    def score_chunk(chunk: tuple[int, Split]) -> list[Tensor]:
        number, batch = chunk
        with seeded(derive(seed, f"evaluate.chunk_{number}"), device):
            scores = _score_batch(model, pixels(batch.images, binarize=False), batch.labels, samples, draws)
        bar.update(min(ranks.count() * len(batch), len(split) - bar.n))
        return [part.cpu() for part in scores]

    with bar, decoding_in_slices(model):
        chunks = list(enumerate(split.batches(min(rows // draws, _CHUNK_IMAGES))))
        parts = ranks.share_out(score_chunk, chunks)
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
