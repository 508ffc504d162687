"""The objectives as estimates: what they converge to, whose gradients agree, and what their settings do to them."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from scipy import stats
from scipy.special import logsumexp
from torch import nn
from torch.distributions import kl_divergence

from vae.model import make_model
from vae.model.bounds import weight_and_elbo_terms, weight_terms
from vae.model.objectives import OBJECTIVES, dreg_loss, elbo_loss, iwae_loss

NOISE, INNER = 0.6, 0.8


class LinearGaussian(nn.Module):
    """Normal latents and images x of one number, float64 (n,), whose evidence is known; its weights are scalars."""

    def __init__(self, **weights):
        super().__init__()
        for name, weight in weights.items():
            setattr(self, name, nn.Parameter(torch.tensor(weight, dtype=torch.float64)))

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(0 * self.slope, 1.0))
            pyro.sample("x", dist.Normal(self.slope * z, NOISE), obs=x)

    def log_evidence(self, x):
        return stats.norm.logpdf(x.numpy(), 0, math.sqrt(self.slope.item() ** 2 + NOISE**2))

    def guides_parameters(self):
        return [p for name, p in self.named_parameters() if name.startswith("guide")]


class OneLevel(LinearGaussian):
    def __init__(self):
        super().__init__(slope=1.3, guide_weight=0.4, guide_log_scale=-0.5)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(self.guide_weight * x, self.guide_log_scale.exp()))


class Auxiliary(LinearGaussian):
    """The guide draws z around a site of its own, unknown to the model."""

    def __init__(self):
        super().__init__(slope=1.3, guide_weight=0.4, guide_log_scale=-0.5, guide_step=0.9)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            around = dist.Normal(self.guide_weight * x, self.guide_log_scale.exp())
            u = pyro.sample("u", around, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(self.guide_step * u, 0.5))


class TwoLevels(LinearGaussian):
    def __init__(self):
        super().__init__(
            slope=1.2, up=0.9, guide_weight=0.5, guide_log_scale=-0.5, guide_step=0.5, guide_inner_log_scale=-0.2
        )

    def model(self, x):
        with pyro.plate("images", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0 * self.slope, 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.up * z2, INNER))
            pyro.sample("x", dist.Normal(self.slope * z1, NOISE), obs=x)

    def log_evidence(self, x):
        variance = self.slope.item() ** 2 * (self.up.item() ** 2 + INNER**2) + NOISE**2
        return stats.norm.logpdf(x.numpy(), 0, math.sqrt(variance))


class BottomUp(TwoLevels):
    """As in the IWAE paper, the guide draws the levels in the order that is not the model's."""

    def guide(self, x):
        with pyro.plate("images", len(x)):
            z1 = pyro.sample("z1", dist.Normal(self.guide_weight * x, self.guide_log_scale.exp()))
            pyro.sample("z2", dist.Normal(self.guide_step * z1, self.guide_inner_log_scale.exp()))


class TopDown(TwoLevels):
    def guide(self, x):
        with pyro.plate("images", len(x)):
            z2 = pyro.sample("z2", dist.Normal(self.guide_weight * x, self.guide_log_scale.exp()))
            pyro.sample("z1", dist.Normal(0.3 * x + self.guide_step * z2, self.guide_inner_log_scale.exp()))


KNOWN = [OneLevel, BottomUp, TopDown]
X = torch.tensor([0.3, -1.0, 1.5], dtype=torch.float64)


@pytest.fixture
def make_vae(make_settings, lean):
    """Give a function: a real, tiny model for images of 2 x 2 pixels, no part of it still the identity."""

    def make(**keys):
        sizes = {"latent_dim": 2, "top_dim": 2, "encoder_widths": [3], "decoder_widths": [3], "inner_widths": [3]}
        flow = {"flow_widths": [3], "prior_layers": 2, "posterior_layers": 1, "prior_components": 3}
        torch.manual_seed(0)
        model = make_model(make_settings(model=sizes | flow | {"activation": "tanh"} | keys).model, (1, 2, 2), 0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        return model

    return make


def repeated(x, copies):
    """Every image repeated in a row: each copy has its own draws."""
    return x.repeat_interleave(copies, 0)


def mean_and_error(values):
    return values.mean(0), values.std(0, ddof=1) / math.sqrt(len(values))


# --- What the bounds are


@torch.no_grad()
def bounds(module, settings, calls=40, copies=500):
    """The importance-weighted bound of each image, float64 (calls, 3): `calls` estimates from `copies` draws each."""
    estimates = [
        [-iwae_loss(module, (repeated(x[None], copies),), 1.0, settings)[0].item() for x in X] for _ in range(calls)
    ]
    return np.array(estimates)


@pytest.mark.parametrize("program", KNOWN)
def test_the_bound_rises_with_the_draws_and_reaches_the_log_likelihood(lean, make_train, program):
    module = program()
    means, errors = {}, {}
    for particles, copies in ((1, 500), (3, 500), (9, 500), (1000, 30)):
        settings = make_train(objective="iwae", particles=particles)
        means[particles], errors[particles] = mean_and_error(bounds(module, settings, copies=copies))
    for few, many in ((1, 3), (3, 9), (9, 1000)):
        # Beyond four standard errors of the difference: the bound of each of the images.
        assert (means[many] - means[few] > 4 * np.hypot(errors[few], errors[many])).all()
    # What is missing is about half the weights' variance over the draws, some 0.001; four standard errors beside it.
    gap = np.abs(means[1000] - module.log_evidence(X))
    assert (gap < 0.002 + 4 * errors[1000]).all()
    assert (errors[1000] < 0.005).all()


@pytest.mark.parametrize("program", [*KNOWN, Auxiliary])
def test_closed_forms_do_not_change_the_elbo(lean, program):
    module, copies = program(), 20_000
    with torch.no_grad():
        drawn, closed = weight_and_elbo_terms(module.model, module.guide, 1, repeated(X, copies))
    mean, error = mean_and_error((closed.elbo - drawn.log_weights).reshape(3, copies).T.numpy())
    # Four and a half standard errors: all of 12 such differences are smaller in all but one of 10 000 runs.
    assert (np.abs(mean) < 4.5 * error).all()
    assert (error < 0.02).all()


@pytest.mark.parametrize(
    ("levels", "prior", "posterior"),
    [
        ("one", "vampprior", "diagonal_normal"),
        ("one", "standard_normal", "full_covariance"),
        ("one", "spline", "coupling"),
        ("iwae", "standard_normal", "diagonal_normal"),
        ("iwae", "realnvp", "iaf"),
        ("hvae", "vampprior", "diagonal_normal"),
        ("hvae", "gaussian_mixture", "full_covariance"),
    ],
)
def test_closed_forms_do_not_change_a_real_models_elbo(make_vae, levels, prior, posterior):
    model, copies = make_vae(levels=levels, prior=prior, posterior=posterior), 50_000
    images = repeated(torch.rand(1, 1, 2, 2).round(), copies)
    with torch.no_grad():
        drawn, closed = weight_and_elbo_terms(model.model, model.guide, 1, images)
    mean, error = mean_and_error((closed.elbo - drawn.log_weights).double().flatten().numpy())
    # As above, and float32 rounding where no site has a closed form.
    assert abs(mean) < 4.5 * error + 1e-5
    assert error < 0.05


def test_sites_of_the_guide_alone_count_as_in_pyro():
    module = Auxiliary()
    torch.manual_seed(1)
    ours = weight_terms(module.model, module.guide, 1, X).log_weights.sum()
    torch.manual_seed(1)
    # The same draws and float64 sums in another order.
    assert ours.item() == pytest.approx(-Trace_ELBO().loss(module.model, module.guide, X), rel=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_of_one_draw_is_pyros_for_sites_of_the_guide_alone(make_train, objective):
    module, settings = Auxiliary(), make_train(objective=objective, particles=1)

    def gradients(loss, seed):
        module.zero_grad()
        torch.manual_seed(seed)
        loss().backward()
        return [p.grad.item() for p in module.parameters()]

    x = repeated(X, 200)
    ours, theirs = (
        np.array([gradients(loss, seed) for seed in range(200)])
        for loss in (
            lambda: OBJECTIVES[objective](module, (x,), 1.0, settings)[0],
            lambda: Trace_ELBO().differentiable_loss(module.model, module.guide, x) / len(x),
        )
    )
    mean, error = mean_and_error(ours - theirs)
    # Closed forms and double reparameterization change draws, not means: four and a half standard errors of the
    # difference, or float64 rounding where they are the same.
    assert (np.abs(mean) < 4.5 * error + 1e-12).all()


# --- The gradients of dreg


def flat_gradients(objective, module, parameters, args, kl_weight, settings, calls):
    """The gradient of each call, each with its own seed, float64 (calls, number of parameters)."""
    rows = []
    for seed in range(calls):
        module.zero_grad()
        torch.manual_seed(seed)
        objective(module, args, kl_weight, settings)[0].backward()
        rows.append(torch.cat([p.grad.flatten() for p in parameters]).double().numpy())
    return np.stack(rows)


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
@pytest.mark.parametrize("program", [*KNOWN, Auxiliary])
def test_dregs_value_and_model_gradient_are_iwaes(make_train, program, kl_weight):
    module, settings = program(), make_train(objective="dreg", particles=5)
    results = []
    for objective in (iwae_loss, dreg_loss):
        module.zero_grad()
        torch.manual_seed(1)
        loss, terms = objective(module, (X,), kl_weight, settings)
        loss.backward()
        of_model = [p.grad for name, p in module.named_parameters() if not name.startswith("guide")]
        results.append([loss.detach(), *(term.detach() for term in terms), *of_model])
    # The same draws: float64 sums in another order.
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


# With the KL weighted too, as in a warm-up.
@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
@pytest.mark.parametrize("program", KNOWN)
def test_dregs_guide_gradient_agrees_with_iwaes_in_expectation(lean, make_train, program, kl_weight):
    module, settings = program(), make_train(objective="dreg", particles=4)
    ours, theirs = (
        flat_gradients(loss, module, module.guides_parameters(), (repeated(X, 300),), kl_weight, settings, calls=150)
        for loss in (dreg_loss, iwae_loss)
    )
    mean, error = mean_and_error(ours - theirs)
    # Four and a half standard errors; they are below a hundredth of the gradient.
    assert (np.abs(mean) < 4.5 * error).all()
    assert np.linalg.norm(error) < 0.02 * np.linalg.norm(theirs.mean(0))


@pytest.mark.parametrize(
    "keys",
    [
        {"levels": "one", "prior": "standard_normal", "posterior": "full_covariance"},
        {"levels": "one", "prior": "realnvp", "posterior": "coupling"},
        # The encoder, a part of the guide, is here one of the prior's too.
        {"levels": "one", "prior": "vampprior"},
        {"levels": "iwae", "prior": "standard_normal"},
        {"levels": "hvae", "prior": "gaussian_mixture"},
    ],
    ids=lambda keys: " ".join(keys.values()),
)
def test_dregs_gradient_agrees_with_iwaes_for_all_weights_of_a_real_model(make_vae, make_train, keys):
    model, settings = make_vae(**keys), make_train(objective="dreg", particles=4)
    images = repeated(torch.rand(3, 1, 2, 2).round(), 300)
    ours, theirs = (
        flat_gradients(loss, model, list(model.parameters()), (images,), 1.0, settings, calls=120)
        for loss in (dreg_loss, iwae_loss)
    )
    mean, error = mean_and_error(ours - theirs)
    # Five standard errors: one of the 130 weights at most lies beyond by chance in 10 000 runs; 1e-6 for those of the
    # model, whose gradients are the same but for float32 rounding.
    assert (np.abs(mean) < 5 * error + 1e-6).all()
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(theirs.mean(0))


@pytest.mark.parametrize("program", KNOWN)
def test_dregs_guide_gradient_is_less_noisy_where_there_are_many_draws(lean, make_train, program):
    module, settings = program(), make_train(objective="dreg", particles=64)
    noise = [
        flat_gradients(loss, module, module.guides_parameters(), (X,), 1.0, settings, calls=200).var(0).sum()
        for loss in (dreg_loss, iwae_loss)
    ]
    # Variances of 200 values are known to a tenth; dreg's is smaller by a factor that grows with the draws.
    assert noise[0] < noise[1] / 3


# --- What the settings do


def recomputed(module, x, particles):
    """Log-likelihood of each draw and closed KL of each image, in numpy, for the draws that the seed gives."""
    torch.manual_seed(1)
    with poutine.trace() as traced, pyro.plate("particles", particles, dim=-2):
        module.guide(x)
    z = traced.trace.nodes["z"]["value"].detach().numpy()
    mean, log_scale = module.guide_weight.item() * x.numpy(), module.guide_log_scale.item()
    log_likelihood = stats.norm.logpdf(x.numpy(), module.slope.item() * z, NOISE)
    return log_likelihood, (mean**2 + math.exp(2 * log_scale) - 1 - 2 * log_scale) / 2


@pytest.mark.parametrize("kl_weight", [0.0, 0.25, 1.0, 4.0])
@pytest.mark.parametrize("particles", [1, 3])
def test_the_elbo_averages_over_draws_and_weights_the_kl(make_train, particles, kl_weight):
    module = OneLevel()
    torch.manual_seed(1)
    loss, terms = elbo_loss(module, (X,), kl_weight, make_train(particles=particles))
    log_likelihood, kl = recomputed(module, X, particles)
    # float64 sums in another order. The terms are without the weight, whatever it is.
    assert loss.item() == pytest.approx(kl_weight * kl.mean() - log_likelihood.mean(), rel=1e-12)
    assert terms.log_likelihood.mean().item() == pytest.approx(log_likelihood.mean(), rel=1e-12)
    assert terms.kl.mean().item() == pytest.approx(kl.mean(), rel=1e-12)


def test_more_draws_make_the_elbo_less_noisy(lean, make_train):
    module, variances = OneLevel(), []
    for particles in (1, 16):
        settings = make_train(particles=particles)
        with torch.no_grad():
            variances.append(np.var([elbo_loss(module, (X,), 1.0, settings)[0].item() for _ in range(400)]))
    # By a factor of 16; variances of 400 values are known to 7 %, twice that for heavier tails.
    assert variances[0] / variances[1] == pytest.approx(16, rel=0.4)


@pytest.mark.parametrize("kl_weight", [0.0, 0.25, 1.0, 4.0])
@pytest.mark.parametrize("loss", [iwae_loss, dreg_loss])
@pytest.mark.parametrize("program", [OneLevel, BottomUp])
def test_importance_weighted_bounds_weight_the_kl_of_each_draw(make_train, program, loss, kl_weight):
    value, terms = loss(program(), (X,), kl_weight, make_train(objective="iwae", particles=5))
    assert terms.log_likelihood.shape == terms.kl.shape == (5, 3)
    log_weights = (terms.log_likelihood - kl_weight * terms.kl).detach().numpy()
    # float64 sums in another order.
    assert value.item() == pytest.approx(-(logsumexp(log_weights, axis=0) - math.log(5)).mean(), rel=1e-12)


def test_a_weight_may_be_a_tensor_that_the_device_holds(make_train):
    for objective, loss in OBJECTIVES.items():
        module, settings, values = OneLevel(), make_train(objective=objective, particles=3), []
        for weight in (0.25, torch.tensor(0.25)):
            torch.manual_seed(1)
            values.append(loss(module, (X,), weight, settings)[0].item())
        assert values[0] == values[1]


def loss_and_gradients(module, kl_weight, settings):
    module.zero_grad()
    torch.manual_seed(1)
    loss, terms = elbo_loss(module, (X,), kl_weight, settings)
    loss.backward()
    gradients = torch.stack([torch.zeros(()).double() if p.grad is None else p.grad for p in module.parameters()])
    return loss.item(), terms.log_likelihood.mean().item(), gradients


@pytest.mark.parametrize("kl_weight", [1.0, 0.5])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_kl_below_the_free_bits_costs_nothing_to_change(make_train, particles, kl_weight):
    module = OneLevel()
    kl = recomputed(module, X, 1)[1]
    free = 1.01 * kl.mean().item()
    # It is the mean over images that counts, though one image's own KL is above.
    assert kl.max() > free
    loss, log_likelihood, gradients = loss_and_gradients(
        module, kl_weight, make_train(free_bits=free, particles=particles)
    )
    _, _, without_kl = loss_and_gradients(module, 0.0, make_train(particles=particles))
    # float64 sums in another order, here and below.
    assert loss == pytest.approx(kl_weight * free - log_likelihood, rel=1e-12)
    torch.testing.assert_close(gradients, without_kl, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("particles", [1, 3])
def test_a_kl_above_the_free_bits_is_as_without_them(make_train, particles):
    module = OneLevel()
    kl = recomputed(module, X, 1)[1]
    free = 0.99 * kl.mean().item()
    # Though one image's own KL is below.
    assert kl.min() < free
    limited = loss_and_gradients(module, 0.7, make_train(free_bits=free, particles=particles))
    usual = loss_and_gradients(module, 0.7, make_train(particles=particles))
    torch.testing.assert_close(limited, usual, rtol=1e-12, atol=1e-12)


def test_each_level_has_free_bits_of_its_own(make_train):
    module = TopDown()
    torch.manual_seed(1)
    drawn = poutine.trace(module.guide).get_trace(X)
    replayed = poutine.trace(poutine.replay(module.model, drawn)).get_trace(X)
    kls = [kl_divergence(drawn.nodes[z]["fn"], replayed.nodes[z]["fn"]).mean().item() for z in ("z1", "z2")]
    free = sum(kls) / 2
    assert abs(kls[0] - kls[1]) > 0.1
    loss, log_likelihood, _ = loss_and_gradients(module, 1.0, make_train(free_bits=free))
    assert loss == pytest.approx(max(kls[0], free) + max(kls[1], free) - log_likelihood, rel=1e-12)
