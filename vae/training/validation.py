"""The bounds of a validation split."""

import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from vae import ranks
from vae.data.images import Split, pixels
from vae.device import seeded
from vae.model import VAE
from vae.model.bounds import elbo_terms, weight_terms
from vae.ranks import Rows
from vae.training.draws import OwnRows

# Images per batch, on which an image's random numbers depend: small enough for a CPU's cache and for the memory
# of a GPU beside a wide convolutional model, large enough for few launches there.
_BATCH = {"cpu": 1_000, "cuda": 2_500}


def mean_terms(model: VAE, split: Split, seed: int) -> tuple[float, float, float]:
    """Mean log-likelihood and KL of a split's images, with one draw of z per image, and their ELBO's standard error.

    All in nats per image; the error is over images, 0 for a single one. The draws depend only on the seed, and the
    caller's random state is left untouched.
    """
    n = len(split)
    log_likelihood, kl, elbo, square = (sum_terms(model, split, seed) / n).tolist()
    # Of equal values rounding may leave less than 0.
    variance = max(square - elbo**2, 0)
    return log_likelihood, kl, math.sqrt(variance / max(n - 1, 1))


@torch.no_grad()
def sum_terms(model: VAE, split: Split, seed: int) -> Tensor:
    """The sums of log-likelihood, KL, ELBO and squared ELBO, float64 (4,), without waiting for the device.

    Each rank computes a part of each batch.
    """
    device = split.images.device
    totals = torch.zeros(4, dtype=torch.float64, device=device)
    with seeded(seed, device):
        for batch, rows in _own(split, _BATCH.get(device.type, 1_000)):
            terms = elbo_terms(model.model, model.guide, pixels(batch.images, binarize=False), batch.labels)
            elbo = terms.elbo.double()
            sums = torch.stack([terms.log_likelihood.sum(), terms.kl.sum()]) * rows.count
            totals += torch.cat([sums, torch.stack([elbo.sum(), elbo.square().sum()]) * rows.count])
    return ranks.add_up(totals)


def _own(split: Split, size: int) -> Iterator[tuple[Split, Rows]]:
    """The rows of each batch that this rank computes, inside of which draws are those that belong to the rows."""
    for batch in split.batches(size):
        rows = ranks.rows(len(batch))
        with OwnRows(rows) if ranks.count() > 1 else nullcontext():
            yield batch[rows.slice], rows


@torch.no_grad()
def mean_bound(model: VAE, split: Split, seed: int, particles: int) -> float:
    """Mean over a split's images of the bound log 1/k sum w of k = `particles` draws each, in nats.

    The bound of Burda et al. (2015, equation 8), its draws fixed by the seed as those of `mean_terms` are.
    """
    device = split.images.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    with seeded(seed, device):
        for batch, rows in _own(split, max(_BATCH.get(device.type, 1_000) // particles, 1)):
            images = pixels(batch.images, binarize=False)
            terms = weight_terms(model.model, model.guide, particles, images, batch.labels)
            total += (terms.log_weights.double().logsumexp(dim=0) - math.log(particles)).sum() * rows.count
    return (ranks.add_up(total) / len(split)).item()
