"""The learned linear map between flow layers, in float64, so that what is left of a difference is a mistake."""

import pytest
import torch
from torch.autograd.functional import jacobian

from tests.model.distributions.conftest import EXACT, FEATURES, perturb, standard
from tests.model.distributions.test_priors import SPACING, densities_on
from vae.model.distributions import flows
from vae.model.distributions.mixing import LinearMixing
from vae.model.distributions.priors import FlowPrior

# Each as a function of dimension, layers and mixing, and whether it takes a context of size FEATURES.
FLOWS = {
    "affine coupling": (lambda dim, *rest: flows.affine_coupling(dim, [8], *rest), False),
    "spline coupling": (lambda dim, *rest: flows.spline_coupling(dim, [8], *rest), False),
    "conditional coupling": (lambda dim, *rest: flows.conditional_affine_coupling(dim, FEATURES, [8], *rest), True),
    "iaf": (lambda dim, *rest: flows.inverse_autoregressive(dim, FEATURES, [8], *rest), True),
}


@pytest.fixture
def make_mixing():
    """Give a function: a perturbed map in float64."""
    return lambda dim: perturb(LinearMixing(dim).double(), 0.5)


@pytest.fixture
def make_flow():
    """Give a function: a flow with such maps in float64, its weights moved by `size`, and a context for it."""

    def make(name, dim=4, layers=3, mixing="lu", size=0.1):
        maker, takes_context = FLOWS[name]
        context = torch.randn(FEATURES, dtype=torch.float64) if takes_context else None
        return perturb(maker(dim, layers, mixing).double(), size), context

    return make


def matrix_of(mixing):
    """The map's matrix, from the factors of Kingma & Dhariwal's (2018) equation 10 by hand."""
    factors = mixing.factors.detach()
    dim = len(factors)
    lower = torch.eye(dim, dtype=torch.float64)
    upper = torch.zeros(dim, dim, dtype=torch.float64)
    for row in range(dim):
        for column in range(dim):
            if column < row:
                lower[row, column] = factors[row, column]
            else:
                upper[row, column] = factors[row, column].exp() if row == column else factors[row, column]
    reversal = torch.eye(dim, dtype=torch.float64).flip(0)
    return reversal @ lower @ upper


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("leading", [(), (7,), (3, 7)])
def test_the_map_is_its_factors_product_and_its_inverse_undoes_it(make_mixing, dim, leading):
    mixing, x = make_mixing(dim), torch.randn(*leading, dim, dtype=torch.float64)
    y = mixing(x)
    torch.testing.assert_close(y, x @ matrix_of(mixing).T + mixing.shift, **EXACT)
    # A copy, as a transform knows the last result that it gave.
    torch.testing.assert_close(mixing.inv(y.clone()), x, **EXACT)
    expected = torch.linalg.slogdet(matrix_of(mixing)).logabsdet.expand(leading)
    torch.testing.assert_close(mixing.log_abs_det_jacobian(x, y), expected, **EXACT)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_gradients_are_those_of_finite_differences(make_mixing, direction):
    mixing, x = make_mixing(4), torch.randn(6, 4, dtype=torch.float64, requires_grad=True)

    def outputs(x, factors, shift):
        weights = {"mixing.factors": factors, "mixing.shift": shift}
        return torch.func.functional_call(OneWay(mixing, direction), weights, (x,))

    assert torch.autograd.gradcheck(outputs, (x, mixing.factors, mixing.shift))


class OneWay(torch.nn.Module):
    """One direction of a map, with its log-determinant, past the transform's memory."""

    def __init__(self, mixing, direction):
        super().__init__()
        self.mixing, self.direction = mixing, direction

    def forward(self, x):
        move = self.mixing._call if self.direction == "forward" else self.mixing._inverse
        return move(x), self.mixing.log_abs_det_jacobian(x, x)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_starts_as_the_one_with_reversals(make_flow, name):
    found = []
    for mixing in ("reversal", "lu"):
        torch.manual_seed(1)
        flow, context = make_flow(name, mixing=mixing, size=0)
        made = flow(standard(4), context)
        torch.manual_seed(2)
        drawn = made.rsample((5,))
        found.append([drawn, made.log_prob(drawn)])
    torch.testing.assert_close(*found, **EXACT)


@pytest.mark.parametrize("name", FLOWS)
def test_a_draws_density_is_the_bases_over_the_jacobian(make_flow, name):
    flow, context = make_flow(name)
    made = flow(standard(4), context)

    def sent(x):
        for transform in made.transforms:
            x = transform(x)
        return x

    for x in torch.randn(5, 4, dtype=torch.float64):
        y = sent(x).detach()
        slope = torch.linalg.slogdet(jacobian(sent, x)).logabsdet
        # Of a copy, which the transforms did not give: the other direction is computed.
        torch.testing.assert_close(made.log_prob(y.clone()), standard(4).log_prob(x) - slope, **EXACT)
        # A map that mixes: every dimension depends on every other.
        assert (jacobian(sent, x) != 0).all()


@pytest.mark.parametrize("name", [name for name, (_, takes_context) in FLOWS.items() if takes_context])
def test_the_density_of_a_posteriors_own_draw_needs_no_inverse(make_flow, name, monkeypatch):
    flow, context = make_flow(name)
    made = flow(standard(4), context)
    drawn = made.rsample()
    monkeypatch.setattr(LinearMixing, "_inverse", lambda *_: pytest.fail("solved"))
    assert made.log_prob(drawn).isfinite()


@pytest.mark.parametrize("name", [name for name, (_, takes_context) in FLOWS.items() if not takes_context])
def test_the_density_of_a_prior_needs_no_solution(make_flow, name, monkeypatch):
    flow, _ = make_flow(name)
    monkeypatch.setattr(LinearMixing, "_inverse", lambda *_: pytest.fail("solved"))
    assert flow(standard(4)).log_prob(torch.randn(5, 4, dtype=torch.float64)).isfinite().all()


def test_a_priors_density_integrates_to_1(make_flow):
    flow, _ = make_flow("affine coupling", dim=2)
    ticks = torch.arange(-13, 13, SPACING, dtype=torch.float64) + SPACING / 2
    grid = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), dim=-1)
    prior = FlowPrior(2, flow).double()()
    density = densities_on(grid, prior)
    # A sum over a grid is exact for a smooth density: there remains some 1e-6 beyond the border.
    assert density.sum().item() * SPACING**2 == pytest.approx(1, abs=1e-5)
    assert (density - densities_on(grid, standard(2))).abs().sum().item() * SPACING**2 / 2 > 0.03


def test_a_density_under_autocast_is_the_one_in_float32():
    mixing, x = perturb(LinearMixing(40), 0.1), torch.randn(100, 40)
    expected = mixing._call(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = mixing._call(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
