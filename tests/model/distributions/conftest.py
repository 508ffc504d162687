"""What the tests of flows, priors and posteriors share: the flows, and what they do to a point."""

import pytest
import torch

from vae.model.distributions import flows
from vae.model.distributions.normal import NormalVector

FEATURES = 3
# Each as a function of dimension and layers, and whether it takes a context of size FEATURES.
FLOWS = {
    "affine coupling": (lambda dim, layers: flows.affine_coupling(dim, [8], layers, "reversal"), False),
    "spline coupling": (lambda dim, layers: flows.spline_coupling(dim, [8], layers, "reversal"), False),
    "conditional coupling": (
        lambda dim, layers: flows.conditional_affine_coupling(dim, FEATURES, [8], layers, "reversal"),
        True,
    ),
    "iaf": (lambda dim, layers: flows.inverse_autoregressive(dim, FEATURES, [8], layers, "reversal"), True),
}
with_context = [name for name, (_, takes_context) in FLOWS.items() if takes_context]


def perturb(module, size):
    """Move the weights, so that no part is still what it starts as."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn_like(parameter)
    return module


def contexts(name, *leading):
    return torch.randn(*leading, FEATURES, dtype=torch.float64) if FLOWS[name][1] else None


def standard(dim):
    return NormalVector(*torch.zeros(2, dim, dtype=torch.float64))


def transforms_of(flow, dim, context=None):
    """The bijections that the flow sends a standard normal through."""
    return flow(standard(dim), context).transforms


def sent(flow, x, context=None):
    for transform in transforms_of(flow, x.shape[-1], context):
        x = transform(x)
    return x


# Sums of some hundred float64 terms. A spline puts what lies within 1e-6 of a knot into the bin beside it, and no
# point here does.
EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def make_flow():
    """Give a function: a perturbed flow in float64."""
    # More would bend a spline to slopes of hundreds, whose inverse loses as many digits.
    sizes = {"spline coupling": 0.1}

    def make(name, dim=4, layers=3, size=None):
        return perturb(FLOWS[name][0](dim, layers).double(), sizes.get(name, 0.3) if size is None else size)

    return make


def shifted(*shape):
    """Normals around 1."""
    return NormalVector(torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))
