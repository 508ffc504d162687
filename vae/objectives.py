"""What training maximizes: the evidence lower bound (ELBO) and its relatives, for any reparameterised Pyro model.

Nothing here waits for the device, so that a step can be captured as a CUDA graph.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import pyro
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import kl_divergence

from vae.settings import Train

Program = Callable[..., Any]
Sites = Mapping[str, Any]  # Pyro's messages of a run's sample sites, by name


class Terms(NamedTuple):
    """The two terms of the ELBO = log_likelihood - kl in nats, each of shape (n,) or (particles, n)."""

    log_likelihood: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """The bound itself, of the same shape."""
        return self.log_likelihood - self.kl


def elbo_terms(model: Program, guide: Program, *args: Any) -> Terms:
    """One draw of the ELBO for each image, with the KL in closed form at each site that has one; shape (n,).

    The same estimate as Pyro's `TraceMeanField_ELBO` (Kingma & Welling 2014, equation 7). A site without a closed
    form, or drawn by the guide before a site that precedes it in the model, counts as in `Trace_ELBO` (equation 6).
    Sites observed in the model make the log-likelihood.

    Raises:
        NotImplementedError: the guide has a site that is not reparameterised.
    """
    drawn = record(guide, args)
    return _site_terms(drawn, record(model, args, drawn), closed_form=True).sum()


def weight_terms(model: Program, guide: Program, particles: int, *args: Any) -> Terms:
    """The terms of the log importance weights log p(x, z) - log q(z | x), for so many draws of z an image.

    Both have shape (particles, n); `kl` is one draw's log q(z | x) - log p(z).
    """
    return weight_and_elbo_terms(model, guide, particles, *args)[0]


def weight_and_elbo_terms(model: Program, guide: Program, particles: int, *args: Any) -> tuple[Terms, Terms]:
    """The terms of the log importance weights, and those of the ELBO at the same draws, its KL in closed form."""
    drawn = record(_repeated(guide, particles), args)
    replayed = record(_repeated(model, particles), args, drawn)
    return tuple(_site_terms(drawn, replayed, closed_form).sum() for closed_form in (False, True))


def elbo_loss(module: nn.Module, args: tuple[Any, ...], kl_weight: Tensor, settings: Train) -> tuple[Tensor, Terms]:
    """Minus the ELBO, its KL weighted (beta-VAE, Higgins et al. 2017), averaged over `particles` draws of z.

    With `free_bits` each site's KL, averaged over the images, costs nothing below so many nats
    (Kingma et al. 2016, equation 15, with a site for a group).
    """
    model, guide = module.model, module.guide
    if settings.particles > 1:
        model, guide = _repeated(model, settings.particles), _repeated(guide, settings.particles)
    drawn = record(guide, args)
    sites = _site_terms(drawn, record(model, args, drawn), closed_form=True)
    terms = sites.sum()
    kl = terms.kl.mean()
    if settings.free_bits:
        kl = sum(site.mean().clamp(min=settings.free_bits) for site in sites.kl)
    return kl_weight * kl - terms.log_likelihood.mean(), terms


def iwae_loss(module: nn.Module, args: tuple[Any, ...], kl_weight: Tensor, settings: Train) -> tuple[Tensor, Terms]:
    """Minus the importance-weighted bound log 1/k sum w of k = `particles` draws (Burda et al. 2015, equation 8)."""
    terms = weight_terms(module.model, module.guide, settings.particles, *args)
    return -_log_mean(terms.log_likelihood - kl_weight * terms.kl).mean(), terms


def dreg_loss(module: nn.Module, args: tuple[Any, ...], kl_weight: Tensor, settings: Train) -> tuple[Tensor, Terms]:
    """The same bound, its gradient doubly reparameterised (Tucker et al. 2019, equation 8): less noise for the guide.

    With weights w normalized over the draws, the guide learns from w^2 times the gradient of log w through z alone,
    the model from w times its own. With the KL weighted by b, w^2 becomes w (1 - b (1 - w)), by the same derivation.
    """
    model, guide = (_repeated(program, settings.particles) for program in (module.model, module.guide))
    drawn = record(guide, args)
    with _held_fixed(module):
        again = record(guide, args, drawn)
        through_z = _site_terms(again, record(model, args, drawn), closed_form=False).sum()
    log_weights = through_z.log_likelihood - kl_weight * through_z.kl
    weights = log_weights.detach().softmax(dim=0)
    for site in drawn.values():
        site["value"] = site["value"].detach()
    own = _model_terms(record(model, args, drawn)).sum()
    own_log_weights = own.log_likelihood - kl_weight * own.kl
    guides_weights = weights * (1 - kl_weight * (1 - weights))
    surrogate = (guides_weights * log_weights + weights * own_log_weights).sum(dim=0)
    # The value of the bound with the gradient of the surrogate.
    bound = _log_mean(log_weights.detach())
    return -(bound + surrogate - surrogate.detach()).mean(), through_z


# A new objective is one function and one line here.
OBJECTIVES: dict[str, Callable[[nn.Module, tuple[Any, ...], Tensor, Train], tuple[Tensor, Terms]]] = {
    "elbo": elbo_loss,
    "iwae": iwae_loss,
    "dreg": dreg_loss,
}


class _Recorder(Messenger):
    """What `poutine.trace` and `poutine.replay` do, for sample sites alone: half of a small step's overhead less."""

    def __init__(self, values: Sites) -> None:
        super().__init__()
        self.values = values
        self.sites: Sites = {}

    def _pyro_sample(self, site: Any) -> None:
        known = self.values.get(site["name"])
        if known is not None and not site["is_observed"]:
            site["value"], site["done"] = known["value"], True

    def _pyro_post_sample(self, site: Any) -> None:
        if site["name"] in self.sites:
            raise RuntimeError(f"two sites are named {site['name']}; give each its own name")
        self.sites[site["name"]] = site


def record(program: Program, args: tuple[Any, ...], values: Sites = MappingProxyType({})) -> Sites:
    """Run a Pyro program and return its sample sites by name; those in `values` take over the values there."""
    with _Recorder(values) as recorder:
        program(*args)
    return recorder.sites


class _SiteTerms(NamedTuple):
    log_likelihood: list[Tensor]
    kl: list[Tensor]

    def sum(self) -> Terms:
        return Terms(*(sum(terms[1:], start=terms[0]) for terms in self))


def _repeated(program: Program, particles: int) -> Program:
    def repeated(*args: Any) -> None:
        with pyro.plate("particles", particles, dim=-2):
            program(*args)

    return repeated


def _site_terms(guide_sites: Sites, model_sites: Sites, closed_form: bool) -> _SiteTerms:
    terms = _SiteTerms([], [])
    guide_sites, model_sites = _without_plates(guide_sites), _without_plates(model_sites)
    places = {name: place for place, name in enumerate(guide_sites)}
    latest = -1  # place in the guide of the model's latent sites so far
    for name, site in model_sites.items():
        if site["is_observed"]:
            terms.log_likelihood.append(_log_prob(site))
        else:
            # A closed form integrates over this site with the others held; what the guide draws after it depends on it.
            in_order = places[name] > latest
            terms.kl.append(_kl(name, guide_sites[name], site, closed_form and in_order))
            latest = max(latest, places[name])
    # Auxiliary sites of the guide alone.
    terms.kl.extend(_log_prob(site) for name, site in guide_sites.items() if name not in model_sites)
    return terms


def _model_terms(model_sites: Sites) -> _SiteTerms:
    terms = _SiteTerms([], [])
    for site in _without_plates(model_sites).values():
        if site["is_observed"]:
            terms.log_likelihood.append(_log_prob(site))
        else:
            terms.kl.append(-_log_prob(site))
    return terms


def _without_plates(sites: Sites) -> Sites:
    return {name: site for name, site in sites.items() if not poutine.util.site_is_subsample(site)}


def _log_prob(site: Any) -> Tensor:
    # Kept in the site, as in Pyro's own traces: two estimates from the same draws need it twice.
    if "log_prob" not in site:
        site["log_prob"] = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
    return site["log_prob"]


def _kl(name: str, guide_site: Any, model_site: Any, closed_form: bool) -> Tensor:
    if not guide_site["fn"].has_rsample:
        raise NotImplementedError(f"site {name}: the guide's {guide_site['fn']} has no reparameterised draw (rsample)")
    if closed_form:
        try:
            exact = kl_divergence(guide_site["fn"], model_site["fn"])
            return scale_and_mask(exact, guide_site["scale"], guide_site["mask"])
        except NotImplementedError:
            pass
    return _log_prob(guide_site) - _log_prob(model_site)


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
