"""Flows and the densities made of them, in float64, so that what is left of a difference is a mistake."""

import gc
import math
import weakref

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import DenseNN
from torch.autograd.functional import jacobian

from tests.training.operations import NoCopies, NoReads
from vae.model import VAE
from vae.model.distributions import flows
from vae.model.distributions.coupling import AffineCoupling
from vae.model.distributions.normal import NormalVector
from vae.model.distributions.posteriors import DiagonalNormal, FlowPosterior, FullCovariance, center
from vae.model.distributions.priors import PRIORS, NormalMixture, VampPrior

FEATURES = 3

# Each as a function of dimension and layers, and whether it takes a context of size FEATURES.
FLOWS = {
    "affine coupling": (lambda dim, layers: flows.affine_coupling(dim, [8], layers), False),
    "spline coupling": (lambda dim, layers: flows.spline_coupling(dim, [8], layers), False),
    "conditional coupling": (lambda dim, layers: flows.conditional_affine_coupling(dim, FEATURES, [8], layers), True),
    "iaf": (lambda dim, layers: flows.inverse_autoregressive(dim, FEATURES, [8], layers), True),
}
with_context = [name for name, (_, takes_context) in FLOWS.items() if takes_context]


def perturb(module, size):
    """Move the weights, so that no part is still what it starts as."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn_like(parameter)
    return module


@pytest.fixture
def make_flow():
    """Give a function: a perturbed flow in float64."""
    # More would bend a spline to slopes of hundreds, whose inverse loses as many digits.
    sizes = {"spline coupling": 0.1}

    def make(name, dim=4, layers=3, size=None):
        return perturb(FLOWS[name][0](dim, layers).double(), sizes.get(name, 0.3) if size is None else size)

    return make


def contexts(name, *leading):
    return torch.randn(*leading, FEATURES, dtype=torch.float64) if FLOWS[name][1] else None


def standard(dim):
    return NormalVector(*torch.zeros(2, dim, dtype=torch.float64))


def shifted(*shape):
    """Normals around 1."""
    return NormalVector(torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))


def transforms_of(flow, dim, context=None):
    """The bijections that the flow sends a standard normal through."""
    return flow(standard(dim), context).transforms


def sent(flow, x, context=None):
    for transform in transforms_of(flow, x.shape[-1], context):
        x = transform(x)
    return x


def sent_back(flow, y, context=None):
    for transform in reversed(transforms_of(flow, y.shape[-1], context)):
        # A copy, as the transforms know the last result that they gave.
        y = transform.inv(y.clone())
    return y


# Sums of some hundred float64 terms. A spline puts what lies within 1e-6 of a knot into the bin beside it, and no
# point here does.
EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("dim", [2, 4, 5])
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_has_an_inverse(make_flow, name, dim):
    flow, x, context = make_flow(name, dim), 2 * torch.randn(50, dim, dtype=torch.float64), contexts(name, 50)
    y = sent(flow, x, context)
    assert (y - x).abs().max() > 0.1
    torch.testing.assert_close(sent_back(flow, y, context), x, **EXACT)
    torch.testing.assert_close(sent(flow, sent_back(flow, x, context), context), x, **EXACT)


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("name", FLOWS)
def test_the_log_determinant_is_that_of_the_jacobian(make_flow, name, dim):
    flow, found = make_flow(name, dim), []
    for x in 2 * torch.randn(5, dim, dtype=torch.float64):
        context = contexts(name)
        total, y = 0, x
        for transform in transforms_of(flow, dim, context):
            # In copies again: neither the inverse nor the determinant may come from a memory.
            start, y = y.clone(), transform(y).clone()
            total = total + transform.log_abs_det_jacobian(start, y.clone())
        expected = torch.linalg.slogdet(jacobian(lambda x, context=context: sent(flow, x, context), x)).logabsdet
        torch.testing.assert_close(total, expected, **EXACT)
        found.append(abs(expected))
    assert max(found) > 0.05


@pytest.mark.parametrize("name", FLOWS)
def test_a_draws_density_is_the_bases_over_the_determinant(make_flow, name):
    flow, context = make_flow(name), contexts(name, 5)
    made = flow(shifted(5, 4), context)
    assert (made.batch_shape, made.event_shape) == ((5,), (4,))
    drawn = made.rsample()
    known = made.log_prob(drawn)
    x = sent_back(flow, drawn, context)
    for i in range(5):
        at = None if context is None else context[i]
        slope = torch.linalg.slogdet(jacobian(lambda x, at=at: sent(flow, x, at), x[i])).logabsdet
        expected = dist.Normal(1.0, 1.0).log_prob(x[i]).sum() - slope
        torch.testing.assert_close(known[i], expected, **EXACT)
    # The same of a value that the flow did not draw itself.
    torch.testing.assert_close(flow(made.base_dist, context).log_prob(drawn.clone()), known, **EXACT)


@pytest.mark.parametrize("name", [name for name in FLOWS if "coupling" in name])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_coupling_flow_begins_as_the_identity_but_for_the_order(make_flow, name, layers):
    flow, x, context = make_flow(name, layers=layers, size=0), torch.randn(50, 4, dtype=torch.float64), contexts(name)
    # Pyro adds 0.001 to a spline's slopes: an error of at most 0.001 of a bin's width for each layer.
    tolerance = 0.002 * layers if name == "spline coupling" else 1e-12
    torch.testing.assert_close(sent(flow, x, context), x if layers == 2 else x.flip(-1), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["affine coupling", "conditional coupling"])
def test_a_coupling_layer_leaves_the_first_half_as_it_is(make_flow, name):
    flow, x = make_flow(name, dim=5, layers=1), torch.randn(50, 5, dtype=torch.float64)
    y = sent(flow, x, contexts(name, 50)).flip(-1)
    assert torch.equal(y[:, :2], x[:, :2])
    assert (y[:, 2:] != x[:, 2:]).all()


def test_a_spline_is_the_identity_beyond_6(make_flow):
    flow, x = make_flow("spline coupling", size=1), torch.tensor([[-7.0, 6.5, 100, -6.01]], dtype=torch.float64)
    torch.testing.assert_close(sent(flow, x), x.flip(-1), **EXACT)


@pytest.mark.usefixtures("lean")  # validation reads values
def test_an_iafs_inverse_reads_no_value_on_the_host(make_flow):
    flow, y, context = make_flow("iaf"), torch.randn(50, 4, dtype=torch.float64), contexts("iaf", 50)
    made = flow(shifted(50, 4), context)
    with NoReads(), NoCopies():
        density = made.log_prob(y)
    # Pyro's own layers with the same networks; their inverse starts from zeros of float32.
    chain = [dist.transforms.AffineAutoregressive(transform.arn) for transform in made.transforms[::2]]
    theirs = [part for layer in chain for part in (layer, flows.Flip())]
    expected = dist.TransformedDistribution(made.base_dist, theirs).log_prob(y)
    torch.testing.assert_close(density, expected, rtol=1e-6, atol=1e-5)


def test_an_iaf_layer_is_autoregressive(make_flow):
    flow, x, context = make_flow("iaf", layers=1), torch.randn(4, dtype=torch.float64), contexts("iaf")
    order = flow.layers[0].nn.permutation
    slopes = jacobian(lambda x: sent(flow, x, context).flip(-1), x)[order][:, order]
    assert torch.equal(slopes.triu(1), torch.zeros_like(slopes))
    assert (slopes.diagonal() > 0).all()
    assert (slopes.tril(-1) != 0).sum() == 6


@pytest.mark.parametrize("name", FLOWS)
def test_with_some_layers_every_dimension_depends_on_every_other(make_flow, name):
    flow, x, context = make_flow(name), torch.randn(4, dtype=torch.float64), contexts(name)
    # Except for the IAF's, whose two orders of dimensions need not be opposite.
    assert (jacobian(lambda x: sent(flow, x, context), x) != 0).sum() > (12 if name == "iaf" else 15)


@pytest.mark.parametrize("name", with_context)
def test_the_context_changes_the_map(make_flow, name):
    flow, x = make_flow(name), torch.randn(4, dtype=torch.float64)
    context = contexts(name)
    for i in range(FEATURES):
        other = context.clone()
        other[i] += 1
        assert (sent(flow, x, other) - sent(flow, x, context)).abs().max() > 1e-3


@pytest.mark.parametrize("name", with_context)
def test_each_row_has_its_own_context_also_for_several_draws(make_flow, name):
    flow, x, context = make_flow(name), torch.randn(6, 5, 4, dtype=torch.float64), contexts(name, 5)
    together = sent(flow, x, context)
    for i in range(5):
        torch.testing.assert_close(together[:, i], sent(flow, x[:, i], context[i]), **EXACT)


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_keeps_no_graph_once_its_distribution_is_gone(make_flow, name):
    flow, context = make_flow(name), contexts(name, 5)
    made = flow(shifted(5, 4), context)
    drawn = made.rsample()
    made.log_prob(drawn).sum().backward(retain_graph=True)
    gone = weakref.ref(drawn)
    del made, drawn
    gc.collect()
    assert gone() is None
    for value in (value for module in flow.modules() for value in vars(module).values()):
        for part in value if isinstance(value, tuple) else (value,):
            assert getattr(part, "grad_fn", None) is None


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_affine_coupling_is_pyros_with_its_gradients(direction):
    # Factors of 5 reach beyond both ends of the log scales' range.
    net = perturb(DenseNN(2, [8], [3, 3]), 5).double()
    x, found = torch.randn(50, 5, dtype=torch.float64, requires_grad=True), []
    for transform in (AffineCoupling(2, net), dist.transforms.AffineCoupling(2, net)):
        if direction == "forward":
            y = transform(x)
            slope = transform.log_abs_det_jacobian(x, y)
        else:
            y = transform.inv(x)
            slope = transform.log_abs_det_jacobian(y, x)
        loss = (y.sin().sum(-1) * slope).sum()
        found.append([y, slope, *torch.autograd.grad(loss, [x, *net.parameters()])])
    log_scale = net(x[:, :2])[1]
    assert log_scale.min() < -5
    assert log_scale.max() > 3
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_a_flip_is_pyros_permutation():
    ours, theirs = flows.Flip(), dist.transforms.Permute(torch.arange(4, -1, -1))
    x = torch.randn(3, 5, requires_grad=True)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.inv(x), theirs.inv(x))
    assert torch.equal(ours.log_abs_det_jacobian(x, ours(x)), torch.zeros(3))
    weights = torch.randn(3, 5)
    gradients = [torch.autograd.grad((flip(x) * weights).sum(), x)[0] for flip in (ours, theirs)]
    assert torch.equal(*gradients)


# --- Priors: densities over two dimensions, on a grid

SPACING = 0.05


@pytest.fixture
def make_prior(make_settings):
    """Give a function: the density of a perturbed prior over two dimensions, in float64 (a VampPrior's in float32)."""

    def make(name):
        keys = {"latent_dim": 2, "prior": name, "prior_components": 6, "prior_layers": 4, "flow_widths": [8]}
        model = VAE(make_settings(model=keys | {"encoder_widths": [8]}).model, (1, 4, 4)).double()
        # Enough to be another density, not so much that it leaves the grid or has peaks between its points.
        perturb(model, 0.1)
        return model.prior()

    return make


@pytest.fixture
def grid():
    """Points of shape (m, m, 2) on the square of 13 around 0."""
    ticks = torch.arange(-13, 13, SPACING, dtype=torch.float64) + SPACING / 2
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), dim=-1)


@torch.no_grad()
def densities_on(grid, prior):
    return prior.log_prob(grid.to(prior.sample().dtype)).exp().double()


@pytest.mark.parametrize("name", PRIORS)
def test_a_priors_density_integrates_to_1(make_prior, grid, name):
    density = densities_on(grid, make_prior(name))
    # Sums over a grid are exact for smooth densities: there remain some 1e-6 beyond its border and in the VampPrior's
    # float32. A spline has kinks, at which the error is of the order of the spacing squared.
    tolerance = SPACING**2 if name == "spline" else 1e-5
    assert density.sum().item() * SPACING**2 == pytest.approx(1, abs=tolerance)
    # Nor is it still a standard normal: half the absolute difference is 0 for equal densities, 1 for disjoint ones.
    difference = (density - densities_on(grid, standard(2))).abs().sum().item() * SPACING**2 / 2
    assert difference > 0.03 or name == "standard_normal"


def moments_of(z):
    """Functions whose means tell densities apart: shape (..., 8)."""
    a, b = z.unbind(-1)
    return torch.stack([a, b, a * a, b * b, a * b, torch.cos(a + b), torch.sin(a - b), torch.tanh(a) * b], dim=-1)


@pytest.mark.parametrize("name", PRIORS)
def test_draws_from_a_prior_have_the_moments_of_its_density(make_prior, grid, name):
    prior = make_prior(name)
    expected = (moments_of(grid) * densities_on(grid, prior)[..., None]).sum((0, 1)) * SPACING**2
    with torch.no_grad():
        values = moments_of(prior.sample((20_000,)))
    errors = values.std(0) / math.sqrt(len(values))
    # Five standard errors: one of the 40 lies beyond by chance in 40 000 runs; the grid's own error is far smaller.
    assert ((values.mean(0) - expected).abs() < 5 * errors + SPACING**2 / 10).all()


# --- Mixtures


@pytest.fixture
def mixture():
    """Means and scales of 7 normals over 3 dimensions and their log weights, which are not normalized."""
    means, scales, weights = torch.randn(7, 3), torch.rand(7, 3) + 0.2, torch.randn(7)
    return [part.double() for part in (means, scales, weights)]


def reference(means, scales, log_weights):
    components = dist.Normal(means, scales).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=log_weights), components)


def test_a_normal_mixture_has_the_density_and_mean_of_pytorchs(mixture):
    ours, expected, z = NormalMixture(*mixture), reference(*mixture), torch.randn(2, 5, 3, dtype=torch.float64)
    assert (ours.batch_shape, ours.event_shape) == ((), (3,))
    torch.testing.assert_close(ours.log_prob(z), expected.log_prob(z), **EXACT)
    torch.testing.assert_close(ours.mean, expected.mean, **EXACT)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.03, 0.01])
def test_a_normal_mixture_of_float32_loses_no_digits_at_narrow_scales(scale):
    means, scales = torch.randn(500, 40), scale * (0.5 + torch.rand(500, 40))
    weights = torch.randn(500)
    # Half of the values are draws, where the density is high, and half are anywhere.
    z = torch.cat([NormalMixture(means, scales, weights).sample((50,)), torch.randn(50, 40)]).requires_grad_()
    found = NormalMixture(means, scales, weights).log_prob(z)
    exact_z = z.detach().double().requires_grad_()
    expected = reference(means.double(), scales.double(), weights.double()).log_prob(exact_z)
    assert found.dtype == torch.float32
    # The result's own rounding to float32, and that of each component's density.
    torch.testing.assert_close(found.double(), expected, rtol=3e-7, atol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    # Rounding of sums over components, relative to the largest part of a gradient; a component's share of a value that
    # lies between two of them changes by the rounding of their densities, at most 1e6 at these scales.
    error = (z.grad - exact_z.grad).abs().max(-1).values / exact_z.grad.abs().max(-1).values
    assert (error[:50] < 1e-3).all()


def test_a_normal_mixtures_density_stays_float32_under_autocast(mixture):
    means, scales, weights = (part.float() for part in mixture)
    z = 3 * torch.randn(100, 3)
    made = NormalMixture(means, scales / 10, weights)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = made.log_prob(z)
    assert torch.equal(lowered, made.log_prob(z))


def test_draws_from_a_normal_mixture_have_its_moments(mixture):
    drawn, expected = NormalMixture(*mixture).sample((20_000,)), reference(*mixture)
    assert drawn.shape == (20_000, 3)
    errors = drawn.std(0) / math.sqrt(len(drawn))
    # Five standard errors, here and below.
    assert ((drawn.mean(0) - expected.mean).abs() < 5 * errors).all()
    squares = (drawn - expected.mean).square()
    errors = squares.std(0) / math.sqrt(len(drawn))
    assert ((squares.mean(0) - expected.variance).abs() < 5 * errors).all()


def test_a_plates_draws_from_a_mixture_are_independent(mixture):
    wide = NormalMixture(*mixture).expand((2, 5))
    drawn = wide.sample()
    assert (wide.batch_shape, wide.event_shape, drawn.shape) == ((2, 5), (3,), (2, 5, 3))
    assert len(drawn.reshape(10, 3).unique(dim=0)) == 10
    torch.testing.assert_close(wide.log_prob(drawn), NormalMixture(*mixture).log_prob(drawn), **EXACT)


def test_a_vampprior_is_the_mean_of_the_posteriors_at_its_pseudo_inputs():
    head, images = DiagonalNormal(16, 3), torch.rand(6, 1, 4, 4)
    prior = VampPrior((1, 4, 4), 6, lambda images: head(images.flatten(1)))
    prior.initialize(images)
    # What lies within 0.05 of black and white is moved there, for a finite logit; float32 rounding of that.
    torch.testing.assert_close(prior.logits.sigmoid(), images.clamp(0.05, 0.95), rtol=0, atol=1e-6)
    z = torch.randn(5, 1, 3)
    expected = head(images.clamp(0.05, 0.95).flatten(1)).log_prob(z).exp().mean(1).log()
    torch.testing.assert_close(prior().log_prob(z[:, 0]), expected)


def test_a_vampprior_with_more_pseudo_inputs_than_images_keeps_the_rest():
    prior, images = VampPrior((1, 4, 4), 6, NormalVector), torch.rand(2, 1, 4, 4)
    rest = prior.logits[2:].clone()
    prior.initialize(images)
    torch.testing.assert_close(prior.logits[:2].sigmoid(), images.clamp(0.05, 0.95), rtol=0, atol=1e-6)
    assert torch.equal(prior.logits[2:], rest)


# --- Where a posterior is


def test_the_center_of_a_normal_is_its_mean():
    for posterior in (DiagonalNormal(FEATURES, 2), FullCovariance(FEATURES, 2)):
        q = posterior(torch.randn(5, FEATURES))
        assert torch.equal(center(q), q.mean)


@pytest.mark.parametrize("name", with_context)
def test_the_center_of_a_flow_is_where_it_sends_its_bases_mean(name):
    posterior = perturb(FlowPosterior(FEATURES, 4, FLOWS[name][0](4, 3)).double(), 0.3)
    features = contexts(name, 5)
    q = posterior(features)
    assert center(q).shape == (5, 4)
    expected = sent(posterior.flow, posterior.base(features.float().double()).mean, features)
    # The base's parameters are float32 whatever the weights are.
    torch.testing.assert_close(center(q), expected, check_dtype=False, rtol=1e-5, atol=1e-5)
    assert (center(q) - posterior.base(features).mean).abs().max() > 0.1
