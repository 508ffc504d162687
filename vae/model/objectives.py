"""What training minimizes: minus the evidence lower bound (ELBO) or one of its relatives.

Each objective takes a module with the Pyro programs `model` and `guide`, their arguments, the KL term's weight and the
settings. It returns the loss, of shape (), and each image's terms of the bound with unweighted KL.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vae import ranks
from vae.model.bounds import (
    ElboTerms,
    kl_by_site,
    log_density_of_latents,
    log_likelihood,
    log_ratio_by_site,
    record,
    repeated,
    terms_of_weights,
    total,
    values,
    weight_terms,
)
from vae.settings import Train

Weight = Tensor | float


def elbo_loss(module: nn.Module, args: tuple[Any, ...], kl_weight: Weight, settings: Train) -> tuple[Tensor, ElboTerms]:
    """Minus the ELBO with a weighted KL (beta-VAE, Higgins et al. 2017), averaged over `particles` draws of z.

    With `free_bits` each site's KL, averaged over the images, costs nothing below that many nats
    (Kingma et al. 2016, equation 15, with each site as a group). A `sampled` KL is log q - log p of the draws also
    where there is a closed form (Kingma & Welling 2014, equation 6 in place of 7).
    """
    model, guide = module.model, module.guide
    if settings.particles > 1:
        model, guide = repeated(model, settings.particles), repeated(guide, settings.particles)
    drawn = record(guide, args)
    replayed = record(model, args, values(drawn))
    by_site = log_ratio_by_site if settings.kl == "sampled" else kl_by_site
    kl_of_sites = by_site(drawn, replayed).values()
    terms = ElboTerms(log_likelihood(replayed), total(kl_of_sites))
    if settings.free_bits:
        kl = total(_at_least(settings.free_bits, kl_of_site) for kl_of_site in kl_of_sites)
        return kl_weight * kl - terms.log_likelihood.mean(), terms
    kl = terms.kl if isinstance(kl_weight, float) and kl_weight == 1 else kl_weight * terms.kl
    return (kl - terms.log_likelihood).mean(), terms


def iwae_loss(module: nn.Module, args: tuple[Any, ...], kl_weight: Weight, settings: Train) -> tuple[Tensor, ElboTerms]:
    """Minus the importance-weighted bound log 1/k sum w over k = `particles` draws (Burda et al. 2015, equation 8)."""
    terms = weight_terms(module.model, module.guide, settings.particles, *args)
    return -_log_mean(terms.tempered(kl_weight)).mean(), terms.as_elbo_terms()


def dreg_loss(module: nn.Module, args: tuple[Any, ...], kl_weight: Weight, settings: Train) -> tuple[Tensor, ElboTerms]:
    """The same bound, its gradient doubly reparameterized (Tucker et al. 2019): less noise for the guide.

    With w_i the weights of k draws z_i of an image, normalized over the draws, and z_i a function of the noise and of
    the guide's parameters phi, the gradients of the bound are estimated by

        for phi (equation 8)         sum_i w_i^2 (d log p(x, z_i) / q(z_i | x) / dz_i) (dz_i / dphi)
        for the model's theta        sum_i w_i d log p(x, z_i) / dtheta

    With the ratio q / p to the power b = `kl_weight`, w_i^2 becomes w_i (1 - b (1 - w_i)), by the same derivation.
    """
    model, guide = (repeated(program, settings.particles) for program in (module.model, module.guide))
    z = values(record(guide, args))

    # log w as a function of phi through z alone: theta, and phi inside of log q, are constants here.
    with _held_fixed(module):
        through_z = terms_of_weights(record(guide, args, z), record(model, args, z))
    log_w = through_z.tempered(kl_weight)
    w = log_w.detach().softmax(dim=0)

    # log p(x, z) as a function of theta alone: z is a constant here.
    fixed_z = record(model, args, {name: value.detach() for name, value in z.items()})
    log_prior = log_density_of_latents(fixed_z)
    log_joint = log_likelihood(fixed_z) + kl_weight * log_prior

    surrogate = (w * (1 - kl_weight * (1 - w)) * log_w + w * log_joint).sum(dim=0)
    # The value of the bound with the gradient of the surrogate.
    bound = _log_mean(log_w.detach())
    return -(bound + surrogate - surrogate.detach()).mean(), through_z.as_elbo_terms()


# A new objective is one function and one line here.
OBJECTIVES: dict[str, Callable[[nn.Module, tuple[Any, ...], Weight, Train], tuple[Tensor, ElboTerms]]] = {
    "elbo": elbo_loss,
    "iwae": iwae_loss,
    "dreg": dreg_loss,
}


def _at_least(bits: float, kl: Tensor) -> Tensor:
    """The mean of a site's KL, of shape (..., n), over the images of all ranks; not below `bits`.

    Each rank returns its own images' mean where the common one exceeds `bits`, as its gradient is that mean's.
    """
    mean = kl.mean()
    if ranks.count() == 1:
        return mean.clamp(min=bits)
    total_kl, values = ranks.add_up(torch.stack([kl.detach().sum(), mean.new_tensor(kl.numel())]))
    return torch.where(total_kl / values > bits, mean, bits)


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(dim=0) - math.log(len(log_weights))


@contextmanager
def _held_fixed(module: nn.Module) -> Iterator[None]:
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
