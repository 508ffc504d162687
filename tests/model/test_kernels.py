"""The fast softplus and cross-entropy against float64, and their gradients."""

import pytest
import torch
from torch.nn import functional as F

from vae.model import kernels
from vae.model.kernels import Linear, Softplus, cross_entropy

# All magnitudes, both signs, and beyond where float32's exp overflows.
VALUES = torch.cat(
    [torch.linspace(-30, 30, 10_001), torch.tensor([0.0, -0.0, 1e-30, -100, 100, -1e4, 1e4, 3e38, -3e38])]
)


def test_a_softplus_is_within_its_bound_and_its_gradient_is_the_sigmoid():
    x = VALUES.clone().requires_grad_()
    y = Softplus()(x)
    expected = F.softplus(VALUES.double(), threshold=1e9)
    # The rounding of the logarithm, and that of a large result.
    assert ((y - expected).abs() <= 1.3e-7 + 6e-8 * expected).all()
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, VALUES.sigmoid())


@pytest.mark.parametrize("draws", [(), (3,)])
def test_a_cross_entropy_is_within_its_bound_and_its_gradient_is_the_difference(draws):
    logits = (8 * torch.randn(*draws, 5, 1, 28, 28)).requires_grad_()
    images = torch.rand(5, 1, 28, 28)
    weights = torch.randn(*draws, 5)
    loss = cross_entropy(logits, images)
    wide = images.double().expand_as(logits)
    expected = F.binary_cross_entropy_with_logits(logits.detach().double(), wide, reduction="none").sum((-3, -2, -1))
    assert loss.shape == (*draws, 5)
    # 784 terms of about 5 nats, each rounded, and their sum.
    assert (loss - expected).abs().max() < 2e-3
    (gradient,) = torch.autograd.grad((weights * loss).sum(), logits)
    exact = (logits.detach().sigmoid() - images) * weights[..., None, None, None]
    torch.testing.assert_close(gradient, exact)


def test_without_gradients_both_are_torchs_own():
    with torch.no_grad():
        assert torch.equal(Softplus()(VALUES), F.softplus(VALUES))
        logits, images = torch.randn(5, 1, 2, 3), torch.rand(5, 1, 2, 3)
        exact = F.binary_cross_entropy_with_logits(logits, images, reduction="none").sum((-3, -2, -1))
        assert torch.equal(cross_entropy(logits, images), exact)


def test_a_second_derivative_is_refused():
    x = torch.randn(5, requires_grad=True)
    (gradient,) = torch.autograd.grad(Softplus()(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("rows", [(6,), (2, 3)])
def test_a_large_product_under_autocast_is_of_bfloat16_numbers_summed_in_float32(rows, monkeypatch):
    monkeypatch.setattr(kernels, "_LARGE", 6 * 5 * 4)
    x, layer = torch.randn(*rows, 5, requires_grad=True), Linear(5, 4)
    weights = torch.randn(*rows, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.float32
    found = [y, *torch.autograd.grad((weights * y).sum(), [x, *layer.parameters()])]
    x_, weight, of_y = (tensor.detach().bfloat16().double() for tensor in (x, layer.weight, weights))
    flat_x, flat_y = x_.flatten(0, -2), of_y.flatten(0, -2)
    bias = layer.bias.detach().double()
    expected = [x_ @ weight.T + bias, of_y @ weight, flat_y.T @ flat_x, weights.double().flatten(0, -2).sum(0)]
    for ours, theirs in zip(found, expected, strict=True):
        # The products' sums are rounded to the 8 bits of bfloat16.
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=2**-8 * theirs.abs().max().item())


def test_other_products_are_torchs(monkeypatch):
    monkeypatch.setattr(kernels, "_LARGE", 6 * 5 * 4 + 1)
    x, layer = torch.randn(6, 5), Linear(5, 4)
    expected = F.linear(x, layer.weight, layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected)
    monkeypatch.setattr(kernels, "_LARGE", 0)
    assert torch.equal(layer(x), expected)


def test_a_product_whose_weights_are_fixed_passes_the_gradient_on(monkeypatch):
    monkeypatch.setattr(kernels, "_LARGE", 0)
    x, layer = torch.randn(6, 5, requires_grad=True), Linear(5, 4).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(gradient, layer.weight.bfloat16().sum(0).float().expand(6, -1), rtol=2**-7, atol=2**-7)
