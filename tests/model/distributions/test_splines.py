"""The rational linear splines, against Pyro's own."""

import pytest
import torch
from pyro.distributions.transforms import SplineCoupling as PyrosCoupling
from pyro.nn import DenseNN
from torch.overrides import TorchFunctionMode

from vae.model.distributions.splines import SplineCoupling

DIM, HALF, BINS, BOUND = 5, 2, 8, 6.0
SIZES = [(DIM - HALF) * count for count in (BINS, BINS, BINS - 1, BINS)]


@pytest.fixture
def both():
    """Give a function: our coupling layer and Pyro's with the same random parameters, of a type."""

    def make(dtype):
        net = DenseNN(HALF, [7], SIZES)
        ours = SplineCoupling(DIM, HALF, net, BINS, BOUND)
        theirs = PyrosCoupling(DIM, HALF, net, BINS, BOUND)
        with torch.no_grad():
            for name, known in (("widths", "widths"), ("heights", "heights"), ("slopes", "derivatives")):
                getattr(ours, name).copy_(getattr(theirs.lower_spline, f"unnormalized_{known}"))
            ours.lambdas.copy_(theirs.lower_spline.unnormalized_lambdas)
        return ours.to(dtype), theirs.to(dtype)

    return make


def values(dtype, n=400):
    """Points within the square, beyond it, and on its edges."""
    points = 3 * torch.randn(n, DIM)
    points[0], points[1], points[2] = BOUND, -BOUND, 0
    return points.to(dtype)


def everything(layer, points, inverse):
    """What a layer makes of points: results, log determinants, and the gradients of both in points and parameters."""
    points = points.clone().requires_grad_()
    results = layer.inv(points) if inverse else layer(points)
    x, y = (results, points) if inverse else (points, results)
    determinants = layer.log_abs_det_jacobian(x, y)
    loss = (results * torch.linspace(0, 1, DIM, dtype=points.dtype)).sum() + determinants.square().sum()
    parameters = layer.net.parameters() if isinstance(layer, SplineCoupling) else layer.upper_spline.nn.parameters()
    own = (
        (layer.widths, layer.heights, layer.slopes, layer.lambdas)
        if isinstance(layer, SplineCoupling)
        else tuple(
            getattr(layer.lower_spline, f"unnormalized_{name}")
            for name in ("widths", "heights", "derivatives", "lambdas")
        )
    )
    return results.detach(), determinants.detach(), torch.autograd.grad(loss, [points, *own, *parameters])


@pytest.mark.parametrize("inverse", [False, True])
def test_values_determinants_and_gradients_are_pyros(both, inverse):
    ours, theirs = both(torch.float64)
    points = values(torch.float64)
    actual, expected = everything(ours, points, inverse), everything(theirs, points, inverse)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_float32_is_near_float64_in_each_tensor_as_a_whole(both, inverse):
    # A slope of 1e3 magnifies the rounding of single elements, by how much depends on the processor. Of 150 seeds, the
    # worst tensor was off by 0.003 of its norm. Pyro's own float32 cannot be compared, as its inverse cancels.
    ours, theirs = both(torch.float32)
    points = values(torch.float32)
    *actual, gradients = everything(ours, points, inverse)
    *expected, expected_gradients = everything(theirs.double(), points.double(), inverse)
    for value, near in zip([*actual, *gradients], [*expected, *expected_gradients], strict=True):
        assert value.dtype == torch.float32
        assert (value - near).norm() <= 0.01 * near.norm()


def test_gradients_are_finite_on_and_beyond_the_edges(both):
    ours, _ = both(torch.float32)
    points = torch.tensor([[6.0, -6.0, 6.0, -6.0, 6.0], [1e4, -1e4, 1e4, 7.0, -7.0]])
    for inverse in (False, True):
        results, determinants, gradients = everything(ours, points, inverse)
        assert results.isfinite().all()
        assert determinants.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients)


class NoMasks(TorchFunctionMode):
    """Refuses Boolean masks as indices: on a GPU they wait for the device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices), "a Boolean mask"
        return function(*args, **(kwargs or {}))


def test_no_boolean_mask_reads_the_device(both):
    ours, theirs = both(torch.float32)
    with NoMasks():
        ours.inv(ours(values(torch.float32)))
        with pytest.raises(AssertionError, match="a Boolean mask"):
            theirs(values(torch.float32))


def test_under_autocast_only_the_network_is_in_bfloat16(both):
    ours, _ = both(torch.float32)
    points, full = values(torch.float32), []
    network = ours.net.forward
    ours.net.forward = lambda inputs: [full.append(inputs.dtype) or part for part in network(inputs)]
    with torch.autocast("cpu", torch.bfloat16):
        y = ours(points)
        back = ours.inv(y.clone())
    assert y.dtype == back.dtype == torch.float32
    # The first half does not know of the network and is exact but for float32's rounding under steep slopes.
    torch.testing.assert_close(back[:, :HALF], points[:, :HALF], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(y[:, :HALF], ours(points.clone())[:, :HALF])
