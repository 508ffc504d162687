"""Flows and the densities made of them, in float64, so that what is left of a difference is a mistake."""

import gc
import weakref

import pyro.distributions as dist
import pytest
import torch
from torch.autograd.functional import jacobian

from tests.model.distributions.conftest import (
    EXACT,
    FEATURES,
    FLOWS,
    contexts,
    sent,
    shifted,
    transforms_of,
    with_context,
)
from vae.model.distributions import flows


def sent_back(flow, y, context=None):
    for transform in reversed(transforms_of(flow, y.shape[-1], context)):
        # A copy, as the transforms know the last result that they gave.
        y = transform.inv(y.clone())
    return y


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


def test_a_flip_is_pyros_permutation():
    ours, theirs = flows.Flip(), dist.transforms.Permute(torch.arange(4, -1, -1))
    x = torch.randn(3, 5, requires_grad=True)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.inv(x), theirs.inv(x))
    assert torch.equal(ours.log_abs_det_jacobian(x, ours(x)), torch.zeros(3))
    weights = torch.randn(3, 5)
    gradients = [torch.autograd.grad((flip(x) * weights).sum(), x)[0] for flip in (ours, theirs)]
    assert torch.equal(*gradients)
