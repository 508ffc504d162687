"""The affine coupling layer, against Pyro's."""

import pyro.distributions as dist
import pytest
import torch
from pyro.nn import DenseNN

from tests.model.distributions.conftest import EXACT, perturb
from vae.model.distributions.coupling import AffineCoupling


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
