"""The affine coupling layers, against Pyro's."""

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import DenseNN
from torch import nn

from tests.model.distributions.conftest import EXACT, perturb
from vae.model.distributions.coupling import AffineCouplings


@pytest.fixture
def make_nets():
    """Give a function: perturbed networks in float64 for layers on vectors of `dim` dimensions."""

    def make(dim, layers, widths=(8, 6), size=0.3):
        half = dim // 2
        nets = [DenseNN(half, widths, [dim - half, dim - half], nonlinearity=nn.SiLU()) for _ in range(layers)]
        return [perturb(net, size).double() for net in nets]

    return make


def pyros(nets, dim, reversing):
    chain = []
    for net in nets:
        chain.append(dist.transforms.AffineCoupling(dim // 2, net))
        if reversing:
            chain.append(dist.transforms.Permute(torch.arange(dim - 1, -1, -1)))
    return dist.transforms.ComposeTransform(chain)


@pytest.mark.parametrize("leading", [(50,), (3, 7), ()])
@pytest.mark.parametrize("dim", [2, 3, 6, 7])
@pytest.mark.parametrize("reversing", [True, False])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_affine_couplings_are_pyros_with_their_gradients(make_nets, direction, reversing, dim, leading):
    nets = make_nets(dim, layers=3)
    x, found = torch.randn(*leading, dim, dtype=torch.float64, requires_grad=True), []
    for transform in (AffineCouplings(dim // 2, nets, reversing), pyros(nets, dim, reversing)):
        if direction == "forward":
            y = transform(x)
            slope = transform.log_abs_det_jacobian(x, y)
        else:
            y = transform.inv(x)
            slope = transform.log_abs_det_jacobian(y, x)
        loss = (y.sin().sum(-1) * slope).sum()
        parameters = [parameter for net in nets for parameter in net.parameters()]
        found.append([y, slope, *torch.autograd.grad(loss, [x, *parameters])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_log_scales_are_clamped_with_the_gradient_of_the_unclamped_ones(make_nets, direction):
    # Factors of 5 reach beyond both ends of the log scales' range.
    (net,) = nets = make_nets(5, layers=1, widths=(8,), size=5)
    x, found = torch.randn(50, 5, dtype=torch.float64, requires_grad=True), []
    for transform in (AffineCouplings(2, nets, False), dist.transforms.AffineCoupling(2, net)):
        y = transform(x) if direction == "forward" else transform.inv(x)
        slope = transform.log_abs_det_jacobian(*((x, y) if direction == "forward" else (y, x)))
        found.append([y, slope, *torch.autograd.grad((y.sin().sum(-1) * slope).sum(), [x, *net.parameters()])])
    log_scale = net(x[:, :2])[1]
    assert log_scale.min() < -5
    assert log_scale.max() > 3
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("dim", [4, 5])
@pytest.mark.parametrize("widths", [(6,), (6, 5, 4)])
def test_the_inverses_gradients_are_those_of_finite_differences(make_nets, widths, dim):
    nets = make_nets(dim, layers=2, widths=widths)
    y = torch.randn(6, dim, dtype=torch.float64, requires_grad=True)

    def inverted(y, *_):
        transform = AffineCouplings(dim // 2, nets, reversing=True)
        x = transform.inv(y)
        return x, transform.log_abs_det_jacobian(x, y)

    parameters = [parameter for net in nets for parameter in net.parameters()]
    assert torch.autograd.gradcheck(inverted, (y, *parameters))


def test_fixed_networks_pass_the_gradient_on(make_nets):
    nets, y = make_nets(4, layers=2), torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    found = []
    for fixed in (False, True):
        for net in nets:
            net.requires_grad_(not fixed)
        x = AffineCouplings(2, nets, reversing=True).inv(y)
        found.append(torch.autograd.grad(x.sin().sum(), y)[0])
    assert torch.equal(*found)


def test_a_density_under_autocast_is_the_one_in_float32(make_nets):
    nets, y = [net.float() for net in make_nets(6, layers=2)], torch.randn(20, 6)
    found = []
    for enabled in (False, True):
        transform = AffineCouplings(3, nets, reversing=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            x = transform.inv(y)
            found += [x, transform.log_abs_det_jacobian(x, y), transform(x.clone())]
    for exact, lowered in zip(found[:3], found[3:], strict=True):
        assert torch.equal(exact, lowered)
