import pyro.distributions as dist
import pytest
import torch
from torch.autograd.functional import jacobian

from tests.model.distributions.conftest import contexts, sent, shifted
from tests.training.operations import NoCopies, NoReads
from vae.model.distributions import flows


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
