import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from scipy.special import logsumexp

from vae.model.bounds import ElboTerms, elbo_terms, weight_terms
from vae.model.objectives import dreg_loss, elbo_loss, iwae_loss

IMAGES = 5


# --- The VAE's own ELBO, from its weights


def elbo_in_numpy(model, x, z):
    """Log-likelihood and KL of each image for given latent draws: the VAE's tanh networks and its ELBO in float64."""
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}

    def linear(name, inputs):
        return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    hidden = np.tanh(linear("encoder.layers.0.0", 2 * x.reshape(len(x), -1) - 1))
    mean, log_scale = np.split(linear("posterior.head", hidden), 2, axis=-1)
    logits = linear("decoder.output", np.tanh(linear("decoder.layers.0.0", z))).reshape(x.shape)
    log_likelihood = -(x * np.logaddexp(0, -logits) + (1 - x) * np.logaddexp(0, logits)).sum(axis=(-3, -2, -1))
    kl = (mean**2 + np.exp(2 * log_scale) - 1 - 2 * log_scale).sum(axis=-1) / 2
    log_ratio = stats.norm.logpdf(z, mean, np.exp(log_scale)).sum(-1) - stats.norm.logpdf(z).sum(-1)
    return log_likelihood, kl, log_ratio


def drawn_by(guide, images, particles=None):
    """The z that the next call with the same seed draws, for the given number of draws per image."""

    def repeated(images):
        with pyro.plate("particles", particles, dim=-2):
            guide(images)

    trace = poutine.trace(repeated if particles else guide).get_trace(images)
    return trace.nodes["z"]["value"].detach().double().numpy()


# Sums of 64 float32 terms of order 1 agree with float64 to some 1e-6 of their size.
SUM_TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def test_the_terms_of_each_image_are_those_of_kingma_and_welling(make_model):
    model, images = make_model(spread=2), torch.rand(IMAGES, 1, 8, 8).round()
    torch.manual_seed(1)
    terms = elbo_terms(model.model, model.guide, images)
    torch.manual_seed(1)
    log_likelihood, kl, _ = elbo_in_numpy(model, images.double().numpy(), drawn_by(model.guide, images))
    assert terms.log_likelihood.shape == terms.kl.shape == (IMAGES,)
    np.testing.assert_allclose(terms.log_likelihood.detach(), log_likelihood, **SUM_TOLERANCE)
    np.testing.assert_allclose(terms.kl.detach(), kl, **SUM_TOLERANCE)
    np.testing.assert_allclose(terms.elbo.detach(), log_likelihood - kl, **SUM_TOLERANCE)


def test_the_weights_of_each_draw_are_ratios_of_densities(make_model):
    model, images, samples = make_model(spread=2), torch.rand(IMAGES, 1, 8, 8).round(), 4
    torch.manual_seed(1)
    terms = weight_terms(model.model, model.guide, samples, images)
    torch.manual_seed(1)
    z = drawn_by(model.guide, images, samples)
    assert terms.log_likelihood.shape == terms.log_ratio.shape == terms.log_weights.shape == (samples, IMAGES)
    for draw in range(samples):
        log_likelihood, _, log_ratio = elbo_in_numpy(model, images.double().numpy(), z[draw])
        np.testing.assert_allclose(terms.log_likelihood[draw].detach(), log_likelihood, **SUM_TOLERANCE)
        np.testing.assert_allclose(terms.log_ratio[draw].detach(), log_ratio, **SUM_TOLERANCE)


def test_the_elbo_is_the_difference_of_its_terms():
    assert ElboTerms(torch.tensor([-3.0]), torch.tensor([0.5])).elbo.item() == -3.5


def test_it_works_under_the_lean_settings_too(make_model):
    model, images = make_model(), torch.rand(IMAGES, 1, 8, 8)
    torch.manual_seed(1)
    usual = elbo_terms(model.model, model.guide, images)
    pyro.enable_validation(False)
    pyro.settings.set(module_local_params=True)
    torch.manual_seed(1)
    assert torch.equal(elbo_terms(model.model, model.guide, images).elbo, usual.elbo)


# --- Pyro's estimators on other programs: each gives its parameters, a model and a guide, with x float (IMAGES,)


def location_and_scale():
    return [torch.linspace(-1, 1, IMAGES).requires_grad_(), torch.linspace(-1, 0.3, IMAGES).requires_grad_()]


def one_site(prior, posterior, likelihood=lambda z: dist.Normal(z, 0.7)):
    """Programs with one latent number per image: `posterior` takes location and logarithm of scale."""
    parameters = location_and_scale()

    def model(x):
        with pyro.plate("images", IMAGES):
            z = pyro.sample("z", prior())
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("images", IMAGES):
            pyro.sample("z", posterior(parameters[0], parameters[1].exp()))

    return parameters, model, guide


def normal():
    return one_site(lambda: dist.Normal(0.5, 2.0), dist.Normal)


def gamma():
    return one_site(lambda: dist.Gamma(2.0, 1.0), lambda a, b: dist.Gamma(a.exp(), b))


def student_t_posterior():
    return one_site(lambda: dist.Normal(0.0, 1.0), lambda location, scale: dist.StudentT(5.0, location, scale))


def student_t_prior():
    return one_site(lambda: dist.StudentT(5.0, 0.0, 1.0), dist.Normal)


def squashed_posterior():
    def posterior(location, scale):
        return dist.TransformedDistribution(dist.Normal(location, scale), [dist.transforms.SigmoidTransform()])

    return one_site(lambda: dist.Beta(2.0, 3.0), posterior)


def two_sites(top_prior):
    """Programs with z2 above z1: the second site's prior depends on the first one's draw."""
    parameters = [*location_and_scale(), *location_and_scale()]

    def model(x):
        with pyro.plate("images", IMAGES):
            top = pyro.sample("z2", top_prior())
            bottom = pyro.sample("z1", dist.Normal(0.8 * top, 0.5))
            pyro.sample("x", dist.Normal(bottom, 0.7), obs=x)

    def guide(x):
        with pyro.plate("images", IMAGES):
            top = pyro.sample("z2", dist.Normal(parameters[0], parameters[1].exp()))
            pyro.sample("z1", dist.Normal(parameters[2] + 0.3 * top, parameters[3].exp()))

    return parameters, model, guide


def two_closed_sites():
    return two_sites(lambda: dist.Normal(0.0, 1.0))


def one_closed_site_of_two():
    return two_sites(lambda: dist.StudentT(5.0, 0.0, 1.0))


def vectors():
    """Programs with one latent vector per image and two observed sites."""
    location = torch.linspace(-1, 1, 3 * IMAGES).reshape(IMAGES, 3).requires_grad_()

    def model(x):
        with pyro.plate("images", IMAGES):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 0.7), obs=x)
            pyro.sample("positive", dist.Bernoulli(logits=z[..., 0]), obs=(x > 0).float())

    def guide(x):
        with pyro.plate("images", IMAGES):
            pyro.sample("z", dist.Normal(location, 0.5).to_event(1))

    return [location], model, guide


def under(handler, programs):
    """Both programs inside a Pyro handler that takes its own arguments first."""
    parameters, model, guide = programs
    return parameters, handler(model), handler(guide)


def scaled(programs):
    return under(lambda program: poutine.scale(program, scale=0.3), programs)


def masked(programs):
    return under(lambda program: poutine.mask(program, mask=torch.tensor([True, False, True, True, False])), programs)


def drawn_from_a_larger_plate():
    """Programs whose plate holds 40 images, 5 of them here: each then counts 8 times."""
    location, log_scale = parameters = location_and_scale()

    def model(x):
        with pyro.plate("images", 8 * IMAGES, subsample=torch.arange(IMAGES)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 0.7), obs=x)

    def guide(x):
        with pyro.plate("images", 8 * IMAGES, subsample=torch.arange(IMAGES)):
            pyro.sample("z", dist.Normal(location, log_scale.exp()))

    return parameters, model, guide


def drawn_at_random():
    """Programs whose plate itself chooses 3 of the images, the same ones in model and guide."""
    location, log_scale = parameters = location_and_scale()

    def model(x):
        with pyro.plate("images", IMAGES, subsample_size=3) as chosen:
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 0.7), obs=x[chosen])

    def guide(x):
        with pyro.plate("images", IMAGES, subsample_size=3) as chosen:
            pyro.sample("z", dist.Normal(location[chosen], log_scale[chosen].exp()))

    return parameters, model, guide


def annealed():
    """Programs whose latent site counts a quarter, as under a KL warm-up."""
    location, log_scale = parameters = location_and_scale()

    def model(x):
        with pyro.plate("images", IMAGES):
            with poutine.scale(scale=0.25):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    def guide(x):
        with pyro.plate("images", IMAGES), poutine.scale(scale=0.25):
            pyro.sample("z", dist.Normal(location, log_scale.exp()))

    return parameters, model, guide


def auxiliary_guide_site():
    """Programs whose guide draws z around a site of its own, unknown to the model."""
    location, log_scale = parameters = location_and_scale()

    def model(x):
        with pyro.plate("images", IMAGES):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 0.7), obs=x)

    def guide(x):
        with pyro.plate("images", IMAGES):
            u = pyro.sample("u", dist.Normal(location, log_scale.exp()), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(u, 0.3))

    return parameters, model, guide


def loss_and_gradients(loss, parameters):
    for parameter in parameters:
        parameter.grad = None
    torch.manual_seed(1)
    value = loss()
    value.backward()
    return value.detach(), [parameter.grad for parameter in parameters]


def assert_same_as_pyro(pyro_elbo, parameters, model, guide, x):
    """Compare loss and gradients, drawn with the same seed; float32 sums in another order differ by some 1e-6."""
    ours = loss_and_gradients(lambda: -elbo_terms(model, guide, x).elbo.sum(), parameters)
    theirs = loss_and_gradients(lambda: pyro_elbo.differentiable_loss(model, guide, x), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_vae_has_the_loss_and_gradients_of_pyro(make_model):
    pyro.settings.set(module_local_params=True)
    model, images = make_model(), torch.rand(IMAGES, 1, 8, 8).round()
    assert_same_as_pyro(TraceMeanField_ELBO(), list(model.parameters()), model.model, model.guide, images)


CLOSED = [
    normal,
    gamma,
    vectors,
    annealed,
    two_closed_sites,
    one_closed_site_of_two,
    drawn_from_a_larger_plate,
    drawn_at_random,
    auxiliary_guide_site,
]
OPEN = [student_t_posterior, student_t_prior, squashed_posterior]


@pytest.mark.parametrize("programs", CLOSED)
def test_closed_forms_are_taken_where_pyro_takes_them(programs):
    assert_same_as_pyro(TraceMeanField_ELBO(), *programs(), torch.randn(IMAGES))


@pytest.mark.parametrize("programs", OPEN)
def test_sites_without_a_closed_form_are_drawn(programs):
    assert_same_as_pyro(Trace_ELBO(), *programs(), torch.randn(IMAGES))


@pytest.mark.parametrize("programs", [normal, two_closed_sites, student_t_posterior])
@pytest.mark.parametrize("handler", [scaled, masked])
def test_scales_and_masks_count_at_every_site(handler, programs):
    assert_same_as_pyro(TraceMeanField_ELBO(), *handler(programs()), torch.randn(IMAGES))


@pytest.mark.parametrize(
    "posterior",
    [
        lambda location, scale: dist.Bernoulli(logits=location),
        lambda location, scale: dist.Categorical(logits=torch.stack([location, scale], -1)),
        lambda location, scale: dist.Poisson(scale),
        lambda location, scale: dist.Normal(location, scale).has_rsample_(False),
    ],
    ids=["bernoulli", "categorical", "poisson", "normal without rsample"],
)
@pytest.mark.parametrize("terms", [elbo_terms, lambda model, guide, x: weight_terms(model, guide, 3, x)])
def test_a_draw_without_gradients_is_refused_by_name(terms, posterior):
    zeros, ones = torch.zeros(IMAGES), torch.ones(IMAGES)
    _, model, guide = one_site(lambda: posterior(zeros, ones), posterior, lambda z: dist.Normal(z.float(), 0.7))
    with pytest.raises(NotImplementedError, match=r"site z: .* no reparameterized draw"):
        terms(model, guide, torch.randn(IMAGES))


# --- Importance weights against an evidence that is known exactly


@pytest.fixture(scope="module")
def linear_gaussian():
    """z ~ N(0, I) in 2 dimensions, x = z A + noise in 3, a guide that is off: 40 000 log weights and log p(x)."""
    mixing, noise = torch.tensor([[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]]), 0.6
    x = torch.tensor([[0.5, -1.0, 0.2], [1.5, 0.3, -0.7], [-0.2, 0.1, 1.0]])

    def model(x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ mixing, noise).to_event(1), obs=x)

    # Wider than the true posterior, so that the weights are bounded and their mean has a standard error.
    def guide(x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x @ mixing.T, 0.9).to_event(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        log_weights = weight_terms(model, guide, 40_000, x).log_weights.double().numpy()
    covariance = mixing.T.double().numpy() @ mixing.double().numpy() + noise**2 * np.eye(3)
    return log_weights, stats.multivariate_normal(np.zeros(3), covariance).logpdf(x.double().numpy())


def test_importance_weights_average_to_the_marginal_likelihood(linear_gaussian):
    log_weights, log_evidence = linear_gaussian
    ratios = np.exp(log_weights - log_evidence)
    errors = ratios.std(axis=0, ddof=1) / math.sqrt(len(ratios))
    assert ratios.shape == (40_000, 3)
    assert (errors < 0.02).all()
    # Four standard errors: three such means all hold with 99.98 % probability.
    assert (np.abs(ratios.mean(axis=0) - 1) < 4 * errors).all()


def test_the_bound_rises_with_the_number_of_draws_towards_the_marginal_likelihood(linear_gaussian):
    log_weights, log_evidence = linear_gaussian
    bounds = {}
    for k in (1, 5, 50):
        groups = log_weights.reshape(-1, k, 3)
        bounds[k] = (logsumexp(groups, axis=1) - math.log(k)).mean(axis=0)
    # Gaps of 1.7 and 0.2 nats; standard errors are 0.02 with one draw and below 0.012 with more.
    assert (bounds[1] + 0.1 < bounds[5]).all()
    assert (bounds[5] + 0.1 < bounds[50]).all()
    np.testing.assert_allclose(bounds[50], log_evidence, atol=0.06)


def test_a_closed_form_is_left_out_where_the_guide_draws_in_the_other_order():
    """The model draws z2 before z1, the guide z1 before z2: with two closed forms the ELBO would be biased."""
    n = 40_000

    def model(x):
        with pyro.plate("images", n):
            top = pyro.sample("z2", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(pyro.sample("z1", dist.Normal(0.8 * top, 0.5)), 0.7), obs=x)

    def guide(x):
        with pyro.plate("images", n):
            bottom = pyro.sample("z1", dist.Normal(0.4, 0.6))
            pyro.sample("z2", dist.Normal(0.9 * bottom, 0.4))

    x = torch.full((n,), 0.5)
    exact_in_part = elbo_terms(model, guide, x).elbo.double().numpy()
    drawn = weight_terms(model, guide, 1, x).log_weights[0].double().numpy()
    error = math.sqrt((exact_in_part.var() + drawn.var()) / n)
    assert error < 0.02
    # Four standard errors; closed forms at both sites are off by some 0.4 nats.
    assert abs(exact_in_part.mean() - drawn.mean()) < 4 * error


# --- Losses


class LinearGaussian(torch.nn.Module):
    """x = w z + noise with z ~ N(0, 1), and a guide N(a x, exp(b)^2) that is off; x float (n,)."""

    def __init__(self):
        super().__init__()
        self.w, self.a, self.b = (torch.nn.Parameter(torch.tensor(value)) for value in (0.8, 0.3, -0.2))

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.w * z, 0.6), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            pyro.sample("z", dist.Normal(self.a * x, self.b.exp()))


class TwoSites(torch.nn.Module):
    """Two independent latent numbers per image, whose KLs are 0.02 and 2 nats on the mean; x float (n,)."""

    def __init__(self):
        super().__init__()
        self.means = torch.nn.Parameter(torch.tensor([0.2, 2.0]))

    def model(self, x):
        with pyro.plate("images", len(x)):
            z = [pyro.sample(name, dist.Normal(torch.zeros(()), 1.0)) for name in ("z1", "z2")]
            pyro.sample("x", dist.Normal(sum(z), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("images", len(x)):
            for name, mean in zip(("z1", "z2"), self.means, strict=True):
                pyro.sample(name, dist.Normal(mean, 1.0))


@pytest.mark.parametrize("kl_weight", [1.0, 0.25])
@pytest.mark.parametrize("particles", [1, 3])
def test_the_elbo_loss_is_a_mean_over_draws_and_images_with_the_kl_weighted(
    lean, make_model, make_train, particles, kl_weight
):
    model, images = make_model(spread=2), torch.rand(IMAGES, 1, 8, 8).round()
    torch.manual_seed(1)
    loss, terms = elbo_loss(model, (images,), torch.tensor(kl_weight), make_train(particles=particles))
    torch.manual_seed(1)
    z = drawn_by(model.guide, images, particles).reshape(particles, IMAGES, -1)
    by_hand = [elbo_in_numpy(model, images.double().numpy(), draw) for draw in z]
    log_likelihood = np.mean([part[0] for part in by_hand])
    kl = np.mean(by_hand[0][1])
    assert loss.item() == pytest.approx(kl_weight * kl - log_likelihood, rel=1e-5)
    # The terms themselves are not weighted.
    assert terms.elbo.mean().item() == pytest.approx(log_likelihood - kl, rel=1e-5)


@pytest.mark.parametrize("particles", [1, 3])
def test_a_sampled_kl_is_log_q_minus_log_p_of_the_draws(lean, make_model, make_train, particles):
    model, images = make_model(spread=2), torch.rand(IMAGES, 1, 8, 8).round()
    settings = make_train(particles=particles, kl="sampled")
    torch.manual_seed(1)
    loss, terms = elbo_loss(model, (images,), torch.tensor(0.25), settings)
    torch.manual_seed(1)
    z = drawn_by(model.guide, images, particles).reshape(particles, IMAGES, -1)
    by_hand = [elbo_in_numpy(model, images.double().numpy(), draw) for draw in z]
    log_likelihood, _, log_ratio = (np.mean([draw[part] for draw in by_hand]) for part in range(3))
    assert loss.item() == pytest.approx(0.25 * log_ratio - log_likelihood, rel=1e-5)
    assert terms.kl.mean().item() == pytest.approx(log_ratio, rel=1e-5)


@pytest.mark.parametrize(
    ("free_bits", "counted"), [(0, 0.02 + 2), (0.01, 0.02 + 2), (0.5, 0.5 + 2), (3, 3 + 3)], ids=str
)
@pytest.mark.parametrize("particles", [1, 3])
def test_free_bits_are_the_least_that_each_sites_kl_costs(lean, make_train, particles, free_bits, counted):
    settings = make_train(particles=particles, free_bits=free_bits)
    loss, terms = elbo_loss(TwoSites(), (torch.randn(20),), torch.tensor(0.5), settings)
    assert loss.item() == pytest.approx(0.5 * counted - terms.log_likelihood.mean().item(), rel=1e-5)
    assert terms.kl.mean().item() == pytest.approx(0.02 + 2, rel=1e-5)


def test_a_site_within_its_free_bits_learns_from_the_likelihood_alone(lean, make_train):
    gradients = {}
    for free_bits in (0, 0.5):
        module = TwoSites()
        torch.manual_seed(1)
        elbo_loss(module, (torch.zeros(20),), torch.tensor(1.0), make_train(free_bits=free_bits))[0].backward()
        gradients[free_bits] = module.means.grad
    # The KL of N(m, 1) has the gradient m: 0.2 at the first site, which is spared it, 2 at the second.
    torch.testing.assert_close(gradients[0] - gradients[0.5], torch.tensor([0.2, 0.0]))


@pytest.mark.parametrize("kl_weight", [1.0, 0.25])
@pytest.mark.parametrize("loss_of", [iwae_loss, dreg_loss])
def test_the_importance_weighted_losses_are_the_logarithm_of_a_mean_weight(
    lean, make_model, make_train, loss_of, kl_weight
):
    model, images, particles = make_model(spread=2), torch.rand(IMAGES, 1, 8, 8).round(), 4
    torch.manual_seed(1)
    loss, terms = loss_of(model, (images,), torch.tensor(kl_weight), make_train(particles=particles))
    torch.manual_seed(1)
    by_hand = [elbo_in_numpy(model, images.double().numpy(), z) for z in drawn_by(model.guide, images, particles)]
    log_weights = np.array([log_likelihood - kl_weight * log_ratio for log_likelihood, _, log_ratio in by_hand])
    bounds = logsumexp(log_weights, axis=0) - math.log(particles)
    assert loss.item() == pytest.approx(-bounds.mean(), rel=1e-5)
    expected = np.array([log_likelihood - log_ratio for log_likelihood, _, log_ratio in by_hand])
    np.testing.assert_allclose(terms.elbo.detach(), expected, **SUM_TOLERANCE)


@pytest.mark.parametrize("kl_weight", [1.0, 0.25])
def test_the_doubly_reparameterized_gradient_is_the_same_for_the_model(lean, make_model, make_train, kl_weight):
    images, gradients = torch.rand(IMAGES, 1, 8, 8).round(), []
    for loss_of in (iwae_loss, dreg_loss):
        model = make_model(spread=2, prior="gaussian_mixture", prior_components=4)
        torch.manual_seed(1)
        loss_of(model, (images,), torch.tensor(kl_weight), make_train(particles=4))[0].backward()
        learned = [*model.decoder.named_parameters(prefix="decoder"), *model.prior.named_parameters(prefix="prior")]
        gradients.append({name: parameter.grad for name, parameter in learned})
    # The same sums of 5 images' gradients in another order.
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_doubly_reparameterized_gradient_is_the_same_on_the_mean_and_less_noisy(lean, make_train):
    module, x, gradients = LinearGaussian(), torch.full((4000,), 1.2), {}
    for loss_of in (iwae_loss, dreg_loss):
        draws = []
        for seed in range(25):
            torch.manual_seed(seed)
            module.zero_grad()
            loss_of(module, (x,), torch.tensor(1.0), make_train(particles=5))[0].backward()
            draws.append([module.a.grad.item(), module.b.grad.item()])
        gradients[loss_of] = np.array(draws)
    difference = gradients[iwae_loss] - gradients[dreg_loss]
    # Four standard errors of the difference, which are below a twentieth of the gradient in the guide's mean.
    assert (np.abs(difference.mean(axis=0)) < 4 * difference.std(axis=0, ddof=1) / 5).all()
    assert difference.std(axis=0, ddof=1)[0] / 5 < np.abs(gradients[dreg_loss].mean(axis=0)[0]) / 20
    assert (gradients[dreg_loss].std(axis=0) < gradients[iwae_loss].std(axis=0) / 2).all()


def test_the_doubly_reparameterized_loss_leaves_every_parameter_learning(lean, make_model, make_train):
    model = make_model()
    fixed = model.decoder.output.bias.requires_grad_(False)
    dreg_loss(model, (torch.rand(IMAGES, 1, 8, 8),), torch.tensor(1.0), make_train(particles=2))
    assert [parameter for parameter in model.parameters() if not parameter.requires_grad] == [fixed]
