import random

import numpy as np
import pytest
import torch

from tests.conftest import as_split
from vae.data.images import Split
from vae.training import validation
from vae.training.validation import mean_bound, mean_terms

pytestmark = pytest.mark.usefixtures("lean")


def global_random_numbers():
    return torch.rand(3).tolist(), random.random(), np.random.random()


def test_validation_leaves_the_global_random_numbers_alone(make_model, digits):
    model = make_model()

    def draws(act):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        act()
        return global_random_numbers()

    expected = draws(lambda: None)
    assert draws(lambda: mean_terms(model, as_split(digits[:20]), seed=1)) == expected


def test_validation_draws_depend_on_the_seed_alone(make_model, digits):
    model = make_model()
    first = mean_terms(model, as_split(digits[:20]), seed=1)
    torch.rand(7)
    assert mean_terms(model, as_split(digits[:20]), seed=1) == first
    assert mean_terms(model, as_split(digits[:20]), seed=2) != first


def test_validation_leaves_no_gradients(make_model, digits):
    model = make_model()
    mean_terms(model, as_split(digits[:20]), seed=1)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("batch", [1, 30, 100])
def test_validation_is_the_mean_over_images_however_they_are_cut(make_model, digits, monkeypatch, batch):
    monkeypatch.setitem(validation._BATCH, "cpu", batch)
    model, images = make_model(), digits[:100]
    with torch.no_grad():
        # z tells nothing, so that the log-likelihood is the same for every draw.
        model.decoder.output.weight.zero_()
    log_likelihood, kl, error = mean_terms(model, as_split(images), seed=1)
    x = images.numpy() / 255
    logits = model.decoder.output.bias.detach().double().numpy().reshape(x.shape[1:])
    q = model.encode(torch.from_numpy(x).float())
    mean, scale = q.mean.detach().double().numpy(), q.stddev.detach().double().numpy()
    log_likelihoods = (x * logits - np.logaddexp(0, logits)).sum(axis=(1, 2, 3))
    kls = (mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum(axis=1) / 2
    # float32 networks and sums of 64 terms.
    assert log_likelihood == pytest.approx(log_likelihoods.mean(), rel=1e-5)
    assert kl == pytest.approx(kls.mean(), rel=1e-5)
    # Those errors of 1e-5 on ELBOs of about -40, whose spread is a tenth of that.
    assert error == pytest.approx((log_likelihoods - kls).std(ddof=1) / 10, rel=1e-3)


def test_a_single_image_has_no_error(make_model, digits):
    assert mean_terms(make_model(), as_split(digits[:1]), seed=1)[2] == 0


def test_validation_images_of_a_conditional_model_keep_their_labels(make_model, digits, monkeypatch):
    monkeypatch.setitem(validation._BATCH, "cpu", 30)
    model, images, labels = make_model(spread=2, condition="label"), digits[:100], torch.arange(100) ** 2 % 10
    _, kl, _ = mean_terms(model, Split(images, labels), seed=1)
    q = model.encode(images.float() / 255, labels)
    mean, scale = q.mean.detach().double().numpy(), q.stddev.detach().double().numpy()
    assert kl == pytest.approx((mean**2 + scale**2 - 1 - 2 * np.log(scale)).sum() / 2 / 100, rel=1e-5)


# --- The importance-weighted bound


def test_the_bound_of_one_draw_is_log_p_minus_log_q(make_model, digits):
    model, images = make_model(spread=2), digits[:20]
    x = images.float() / 255
    with torch.no_grad():
        torch.manual_seed(1)
        q = model.encode(x)
        z = q.sample((1,))[0]
        expected = model.image_given(z).log_prob(x) + model.prior().log_prob(z) - q.log_prob(z)
    # float32 sums of 64 terms.
    assert mean_bound(model, as_split(images), 1, 1) == pytest.approx(expected.mean().item(), rel=1e-5)


def test_the_bound_rises_with_the_draws_above_the_elbo(make_model, digits):
    model, split = make_model(spread=2), as_split(digits[:100])
    log_likelihood, kl, _ = mean_terms(model, split, seed=1)
    bounds = [mean_bound(model, split, 1, particles) for particles in (2, 20, 200)]
    assert log_likelihood - kl < bounds[0] < bounds[1] < bounds[2]


def test_the_bounds_draws_depend_on_the_seed_alone(make_model, digits):
    model, split = make_model(), as_split(digits[:20])
    torch.manual_seed(5)
    first = mean_bound(model, split, 1, 3)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), after)
    assert mean_bound(model, split, 1, 3) == first != mean_bound(model, split, 2, 3)


@pytest.mark.parametrize("batch", [1, 30, 100])
def test_the_bound_is_the_mean_over_images_however_they_are_cut(make_model, digits, monkeypatch, batch):
    monkeypatch.setitem(validation._BATCH, "cpu", batch)
    model = make_model()
    with torch.no_grad():
        # z tells nothing, and the posterior is the prior: every draw has the same weight, p(x).
        for parameter in (*model.decoder.output.parameters(), *model.posterior.parameters()):
            parameter.zero_()
    bound = mean_bound(model, as_split(digits[:100]), 1, 7)
    # float32 sums of 64 terms.
    assert bound == pytest.approx(-64 * np.log(2), rel=1e-5)
