"""The evidence lower bound (ELBO) of any reparameterised Pyro model and guide, without a wait for the device."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

Program = Callable[..., Any]


class Terms(NamedTuple):
    """The two terms of the ELBO = log_likelihood - kl in nats, each of shape (n,) or (samples, n)."""

    log_likelihood: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """The bound itself, of the same shape."""
        return self.log_likelihood - self.kl


def elbo_terms(model: Program, guide: Program, *args: Any) -> Terms:
    """One draw of the ELBO for each image, with the KL in closed form at each site that has one.

    The same estimate as Pyro's `TraceMeanField_ELBO` (Kingma & Welling 2014, equation 7), where no
    site has a closed form as its `Trace_ELBO` (equation 6). Sites observed in the model make the log-likelihood.

    Raises:
        NotImplementedError: the guide has a site that is not reparameterised.
    """
    return _terms(model, guide, args, closed_form=True)


def weight_terms(model: Program, guide: Program, samples: int, *args: Any) -> Terms:
    """The terms of the log importance weights log p(x, z) - log q(z | x), for `samples` draws of z an image.

    Both have shape (samples, n); `kl` is one draw's log q(z | x) - log p(z).
    """

    def particles(program: Program) -> Program:
        def repeated(*args: Any) -> None:
            with pyro.plate("particles", samples, dim=-2):
                program(*args)

        return repeated

    return _terms(particles(model), particles(guide), args, closed_form=False)


def _terms(model: Program, guide: Program, args: tuple[Any, ...], closed_form: bool) -> Terms:
    guide_trace = poutine.trace(guide).get_trace(*args)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
    log_likelihood: Any = 0.0
    kl: Any = 0.0
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample" or poutine.util.site_is_subsample(site):
            continue
        if site["is_observed"]:
            log_likelihood = log_likelihood + _log_prob(site)
        else:
            kl = kl + _kl(name, guide_trace.nodes[name], site, closed_form)
    return Terms(log_likelihood, kl)


def _log_prob(site: Any) -> Tensor:
    return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])


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
