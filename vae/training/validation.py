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


def mean_terms(model: VAE, split: Split, seed: int) -> tuple[float, float]:
    """Mean log-likelihood and KL of a split's images, with one draw of z per image, in nats per image.

    The draws depend only on the seed, and the caller's random state is left untouched.
    """
    log_likelihood, kl = (sum_terms(model, split, seed) / len(split)).tolist()
    return log_likelihood, kl


@torch.no_grad()
def sum_terms(model: VAE, split: Split, seed: int) -> Tensor:
    """The same as sums, float64 (2,), without waiting for the device; each rank computes a part of each batch."""
    device = split.images.device
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    with seeded(seed, device):
        for batch, rows in _own(split, _BATCH.get(device.type, 1_000)):
            terms = elbo_terms(model.model, model.guide, pixels(batch.images, binarize=False), batch.labels)
            totals += torch.stack([terms.log_likelihood.sum(), terms.kl.sum()]) * rows.count
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
