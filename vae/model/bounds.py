"""The terms of the evidence lower bound (ELBO) and of importance weights, for any reparameterized Pyro model.

Nothing here waits for the device, so that a training step can be captured as a CUDA graph.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pyro
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

Program = Callable[..., Any]
Sites = Mapping[str, Any]  # Pyro's messages of one run's sample sites, by name
Values = Mapping[str, Tensor]  # the values drawn there


class ElboTerms(NamedTuple):
    """The two terms of the ELBO = log_likelihood - kl in nats, each of shape (n,) or (particles, n)."""

    log_likelihood: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """The bound itself, of the same shape."""
        return self.log_likelihood - self.kl


class WeightTerms(NamedTuple):
    """The terms of log w = log p(x | z) - log q(z | x) / p(z) in nats, each of shape (particles, n)."""

    log_likelihood: Tensor
    log_ratio: Tensor  # log q(z | x) - log p(z)

    @property
    def log_weights(self) -> Tensor:
        """The log importance weights log p(x, z) - log q(z | x), of the same shape."""
        return self.log_likelihood - self.log_ratio

    def tempered(self, kl_weight: Tensor | float) -> Tensor:
        """The log weights with the ratio multiplied by `kl_weight`, as in a warm-up of the KL."""
        return self.log_likelihood - kl_weight * self.log_ratio

    def as_elbo_terms(self) -> ElboTerms:
        """Each draw's estimate of the ELBO's terms: the ratio's mean under q is the KL."""
        return ElboTerms(self.log_likelihood, self.log_ratio)


def elbo_terms(model: Program, guide: Program, *args: Any) -> ElboTerms:
    """One draw of the ELBO for each image, with the KL in closed form at each site that has one; shape (n,).

    The same estimate as Pyro's `TraceMeanField_ELBO` (Kingma & Welling 2014, equation 7). A site without a closed
    form, or drawn by the guide before a site that precedes it in the model, is estimated as in `Trace_ELBO` (equation
    6).
    Sites observed in the model make up the log-likelihood.

    Raises:
        NotImplementedError: the guide has a site that is not reparameterized.
    """
    drawn = record(guide, args)
    replayed = record(model, args, values(drawn))
    kl = total(kl_by_site(drawn, replayed).values())
    return ElboTerms(log_likelihood(replayed), kl)


def weight_terms(model: Program, guide: Program, particles: int, *args: Any) -> WeightTerms:
    """The terms of the log importance weights for `particles` draws of z per image; shape (particles, n)."""
    drawn = record(repeated(guide, particles), args)
    return terms_of_weights(drawn, record(repeated(model, particles), args, values(drawn)))


def weight_and_elbo_terms(model: Program, guide: Program, particles: int, *args: Any) -> tuple[WeightTerms, ElboTerms]:
    """The terms of the log importance weights, and those of the ELBO at the same draws with its KL in closed form."""
    drawn = record(repeated(guide, particles), args)
    replayed = record(repeated(model, particles), args, values(drawn))
    ratios = log_ratio_by_site(drawn, replayed)
    weights = WeightTerms(log_likelihood(replayed), total(ratios.values()))
    return weights, ElboTerms(weights.log_likelihood, total(kl_by_site(drawn, replayed, ratios).values()))


# --- Running Pyro programs


class _Recorder(Messenger):
    """`poutine.trace` and `poutine.replay` for sample sites only, at half the overhead in a small step."""

    def __init__(self, known: Values) -> None:
        super().__init__()
        self.known = known
        self.sites: dict[str, Any] = {}

    def _pyro_sample(self, site: Any) -> None:
        if site["name"] in self.known and not site["is_observed"]:
            site["value"], site["done"] = self.known[site["name"]], True

    def _pyro_post_sample(self, site: Any) -> None:
        if site["name"] in self.sites:
            raise RuntimeError(f"two sites are named {site['name']}; give each its own name")
        self.sites[site["name"]] = site


def record(program: Program, args: tuple[Any, ...], known: Values = MappingProxyType({})) -> Sites:
    """Run a Pyro program and return its sample sites by name; sites in `known` take their values from it."""
    with _Recorder(known) as recorder:
        program(*args)
    return recorder.sites


def values(sites: Sites) -> Values:
    """The value drawn at each site, including the indices of plates."""
    return {name: site["value"] for name, site in sites.items()}


def repeated(program: Program, particles: int) -> Program:
    """The program with `particles` draws per image, in a plate outside the plate of images."""

    def run(*args: Any) -> None:
        with pyro.plate("particles", particles, dim=-2):
            program(*args)

    return run


# --- Sums over the sites of a guide's run and of the model's run at the same values


def log_likelihood(model_sites: Sites) -> Tensor:
    """Log p(x | z): the sum over the sites that the model observes."""
    return total(log_density(site) for site in model_sites.values() if site["is_observed"])


def log_density_of_latents(model_sites: Sites) -> Tensor:
    """Log p(z): the sum over the model's latent sites."""
    return total(log_density(site) for site in _latent(model_sites).values())


def terms_of_weights(guide_sites: Sites, model_sites: Sites) -> WeightTerms:
    """The terms of the log importance weights of recorded draws."""
    log_ratio = total(log_ratio_by_site(guide_sites, model_sites).values())
    return WeightTerms(log_likelihood(model_sites), log_ratio)


def log_ratio_by_site(guide_sites: Sites, model_sites: Sites) -> dict[str, Tensor]:
    """Log q - log p at each latent site of the model, and log q at the auxiliary sites that only the guide has."""
    known, drawn = _latent(model_sites), _latent(guide_sites)
    ratios = {name: log_density(_reparameterized(drawn[name])) - log_density(site) for name, site in known.items()}
    return ratios | {name: log_density(site) for name, site in drawn.items() if name not in known}


def kl_by_site(guide_sites: Sites, model_sites: Sites, ratios: Values | None = None) -> dict[str, Tensor]:
    """The KL divergence at each site in closed form, or if there is none, log q - log p of the values drawn.

    `ratios` are the results of `log_ratio_by_site` if the caller already has them.
    """
    known, drawn = _latent(model_sites), _latent(guide_sites)
    places = {name: place for place, name in enumerate(drawn)}
    latest = -1  # place in the guide of the model's latent sites so far
    kls: dict[str, Tensor] = {}
    for name, site in known.items():
        guide_site = _reparameterized(drawn[name])
        # A closed form integrates over this site with the others fixed, but later draws of the guide depend on it.
        exact = _closed_form(guide_site, site) if places[name] > latest else None
        if exact is None:
            exact = log_density(guide_site) - log_density(site) if ratios is None else ratios[name]
        kls[name] = exact
        latest = max(latest, places[name])
    own = {name: site for name, site in drawn.items() if name not in known}
    return kls | {name: log_density(site) if ratios is None else ratios[name] for name, site in own.items()}


def log_density(site: Any) -> Tensor:
    """The log density of a site's value, scaled and masked as its plates and handlers ask."""
    return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of one or more tensors in their order."""
    first, *others = terms
    return sum(others, start=first)


def _latent(sites: Sites) -> Sites:
    return {
        name: site
        for name, site in sites.items()
        if not site["is_observed"] and not poutine.util.site_is_subsample(site)
    }


def _reparameterized(guide_site: Any) -> Any:
    if not guide_site["fn"].has_rsample:
        name, fn = guide_site["name"], guide_site["fn"]
        raise NotImplementedError(f"site {name}: the guide's {fn} has no reparameterized draw (rsample)")
    return guide_site


def _closed_form(guide_site: Any, model_site: Any) -> Tensor | None:
    try:
        exact = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return None
    return scale_and_mask(exact, guide_site["scale"], guide_site["mask"])
