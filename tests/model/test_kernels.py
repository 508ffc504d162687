"""The fast softplus and cross-entropy against float64, and their gradients."""

import pytest
import torch
from torch.nn import functional as F

from vae.model.kernels import Softplus, cross_entropy

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
