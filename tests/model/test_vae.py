import copy

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from tests.model.conftest import sites_of
from vae.model import saving as models
from vae.model.bounds import elbo_terms
from vae.training.initialization import initialize

IMAGE_SHAPES = [(1, 28, 28), (1, 8, 8), (3, 4, 6)]
WIDTHS = [[], [16], [16, 12]]
LEVELS = ["one", "iwae", "hvae", "hvae_branched"]
# What `represent` gives: z of size 3, with two levels the upper one's 2 dimensions after it.
SIZES = {"one": 3, "iwae": 5, "hvae": 5, "hvae_branched": 5}


@pytest.mark.parametrize("image_shape", IMAGE_SHAPES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_results_have_the_documented_shapes(make_model, image_shape, widths):
    model = make_model(image_shape, encoder_widths=widths, decoder_widths=widths)
    images = torch.rand(5, *image_shape)
    q = model.encode(images)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    assert model.represent(images).shape == (5, 3)
    assert model.decode(torch.randn(2, 5, 3)).shape == (2, 5, *image_shape)
    assert model.reconstruct(images).shape == (5, *image_shape)
    assert model.sample(7, seed=0).shape == (7, *image_shape)


def test_decoded_images_are_probabilities(make_model):
    model = make_model(spread=10)
    drawn = model.sample(50, seed=0)
    for images in (model.decode(torch.randn(50, 3)), model.reconstruct(torch.rand(50, 1, 8, 8)), drawn):
        assert 0 <= images.min() < 0.1
        assert 0.9 < images.max() <= 1


def test_decoding_is_the_sigmoid_of_the_decoder(make_model):
    model, latents = make_model(), torch.randn(5, 3)
    logits = model.decoder(latents).detach().double().numpy()
    # One float32 rounding of the logits and one of the result.
    np.testing.assert_allclose(model.decode(latents).detach(), 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("keys", [{"condition": "label"}, {"levels": "hvae"}], ids=str)
def test_calling_a_model_reconstructs(make_model, keys):
    model, labels = make_model(**keys), torch.tensor([3, 7])
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(model(images, labels), model.reconstruct(images, labels))


def test_a_reconstruction_decodes_the_representation_which_is_the_posterior_mean(make_model):
    model, images = make_model(), torch.rand(5, 1, 8, 8)
    assert torch.equal(model.represent(images), model.encode(images).mean)
    assert torch.equal(model.reconstruct(images), model.decode(model.encode(images).mean))


def test_parameters_are_those_of_both_networks_and_the_posterior(make_model):
    model = make_model(encoder_widths=[16], decoder_widths=[12])
    encoder, posterior, decoder = 65 * 16, 17 * 2 * 3, 4 * 12 + 13 * 64
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + posterior + decoder


@pytest.mark.parametrize("levels", LEVELS)
def test_the_same_seed_gives_the_same_samples(build, levels):
    model = build(levels=levels)
    first, again, other = (model.sample(5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_sampling_leaves_the_global_random_numbers_alone(make_model):
    model, before = make_model(), torch.get_rng_state()
    model.sample(5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


# --- Draws from the prior and the posterior

KINDS = {
    "one level": {},
    "iwae": {"levels": "iwae"},
    "hvae": {"levels": "hvae"},
    "flow posterior": {"posterior": "iaf", "flow_widths": [8]},
    "conditional": {"condition": "label"},
    "conditional with two levels": {"levels": "iwae", "condition": "label"},
    "conditional with branches": {"levels": "hvae_branched", "condition": "label"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_documented_shapes_and_repeat_with_their_seed(build, kind):
    model, images, labels = build(**KINDS[kind]), torch.rand(3, 1, 8, 8), torch.arange(3)
    (latents, pixels), (again, _), (other, _) = (model.draw_prior(3, seed, labels) for seed in (1, 1, 2))
    assert latents.shape == (3, model.latent_dim)
    assert (pixels.batch_shape, pixels.event_shape) == ((3,), (1, 8, 8))
    assert torch.equal(latents, again)
    assert len(torch.cat([latents, other]).unique(dim=0)) == 6
    drawn, again, other = (model.draw_posterior(images, 4, seed, labels) for seed in (1, 1, 2))
    assert drawn.shape == (4, 3, model.latent_dim)
    assert torch.equal(drawn, again)
    assert len(torch.cat([drawn, other]).flatten(0, 1).unique(dim=0)) == 24


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_of_a_prior_draw_are_decoded_from_its_latents(build, kind):
    model, labels = build(**KINDS[kind]), torch.arange(3)
    latents, pixels = model.draw_prior(3, 0, labels)
    # float32: `decode` cuts the lower level out of both, and rows that lie otherwise in memory may be summed otherwise.
    torch.testing.assert_close(pixels.mean, model.decode(latents, labels))
    assert torch.equal(pixels.mean, model.sample(3, 0, labels))


def test_draws_leave_the_global_random_numbers_alone(build):
    model, images = build(levels="hvae"), torch.rand(2, 1, 8, 8)
    before = torch.get_rng_state()
    model.draw_prior(5, seed=1)
    model.draw_posterior(images, 5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_prior_draws_are_standard_normal_under_a_standard_normal_prior(build):
    latents, _ = build().draw_prior(4000, seed=0)
    # Four standard errors of a mean and of a standard deviation.
    np.testing.assert_allclose(latents.mean(0), 0, atol=4 / 4000**0.5)
    np.testing.assert_allclose(latents.std(0), 1, atol=4 / 8000**0.5)


def test_posterior_draws_have_the_posteriors_mean_and_scale(build):
    model, images, labels = build(condition="label"), torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
    drawn, q = model.draw_posterior(images, 4000, 0, labels), model.encode(images, labels)
    noise = ((drawn - q.mean) / q.stddev).detach()
    np.testing.assert_allclose(noise.mean(0), 0, atol=4 / 4000**0.5)
    np.testing.assert_allclose(noise.std(0), 1, atol=4 / 8000**0.5)


def test_draws_of_a_flow_posterior_go_through_its_flow(build):
    model, images = build(**KINDS["flow posterior"]), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        for parameter in model.posterior.flow.parameters():
            parameter.normal_()  # at first the flow is the identity
        drawn, q = model.draw_posterior(images, 4000, seed=0), model.encode(images)
        expected = q.sample((20_000,))
    spread = expected.std(0)
    assert not torch.allclose(expected.mean(0), q.base_dist.mean, atol=0.2)
    # Four standard errors of a difference of means.
    assert ((drawn.mean(0) - expected.mean(0)).abs() < 4 * spread * (1 / 4000 + 1 / 20_000) ** 0.5).all()


# --- Pyro's view: which sites there are, in which order, and where their distributions come from


@pytest.mark.parametrize(
    ("levels", "model_sites", "guide_sites"),
    [
        ("one", {"z": 3}, ["z"]),
        ("iwae", {"z2": 2, "z1": 3}, ["z1", "z2"]),
        ("hvae", {"z2": 2, "z1": 3}, ["z2", "z1"]),
        ("hvae_branched", {"z2": 2, "z1": 3}, ["z2", "z1"]),
    ],
)
def test_latents_are_drawn_and_images_observed_in_one_plate(build, levels, model_sites, guide_sites):
    model, images = build(levels=levels), torch.rand(5, 1, 8, 8)
    in_model, in_guide = sites_of(model.model, images), sites_of(model.guide, images)
    assert list(in_model) == ["images", *model_sites, "x"]
    assert list(in_guide) == ["images", *guide_sites]
    for site in [*list(in_model.values())[1:], *list(in_guide.values())[1:]]:
        assert [(frame.name, frame.size) for frame in site["cond_indep_stack"]] == [("images", 5)]
    for name, size in model_sites.items():
        for sites in (in_model, in_guide):
            assert sites[name]["value"].shape == (5, size)
            assert not sites[name]["is_observed"]
    assert in_model["x"]["is_observed"]
    assert torch.equal(in_model["x"]["value"], images)


def test_the_guide_draws_z_from_the_posterior(make_model):
    model, images = make_model(), torch.rand(5, 1, 8, 8)
    site, q = sites_of(model.guide, images)["z"], model.encode(images)
    assert torch.equal(site["fn"].mean, q.mean)
    assert torch.equal(site["fn"].stddev, q.stddev)


def gated_in_numpy(x, *layers):
    """x sent through layers (W x + b) * sigmoid(V x + c), W and V one above the other in a weight."""
    for layer in layers:
        values, gates = np.split(x @ weight_of(layer).T + bias_of(layer), 2, axis=-1)
        x = values / (1 + np.exp(-gates))
    return x


def weight_of(layer):
    return layer.weight.detach().double().numpy()


def bias_of(layer):
    return layer.bias.detach().double().numpy()


def test_the_branched_hvae_is_made_of_the_networks_in_tomczak_and_wellings_code(build):
    widths = {"encoder_widths": [16, 12], "decoder_widths": [10, 9], "inner_widths": [6, 7]}
    model = build(levels="hvae_branched", network="gated_mlp", center_inputs=False, clip_log_variance=True, **widths)
    images, z1, z2 = torch.rand(5, 1, 8, 8), torch.randn(5, 3), torch.randn(5, 2)
    linear = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    # Inputs and outputs of each linear layer, those of a gated one and of a head (mean, log scale) twice.
    assert {name: (layer.in_features, layer.out_features) for name, layer in linear.items()} == {
        "encoder.layers.0.0": (64, 2 * 16),
        "encoder.layers.1.0": (16, 2 * 12),
        "posterior.head": (12, 2 * 2),
        "lower_encoder.layers.0.0": (64, 2 * 16),
        "top_branch.0.0": (2, 2 * 6),
        "inner_posterior.layers.0.0": (16 + 6, 2 * 7),
        "inner_posterior.normal.head": (7, 2 * 3),
        "inner_prior.layers.0.0": (2, 2 * 6),
        "inner_prior.layers.1.0": (6, 2 * 7),
        "inner_prior.normal.head": (7, 2 * 3),
        "decoder.branches.0.0.0": (3, 2 * 10),
        "decoder.branches.1.0.0": (2, 2 * 10),
        "decoder.decoder.layers.0.0": (20, 2 * 9),
        "decoder.decoder.output": (9, 64),
    }
    x, first, second = (part.double().numpy() for part in (images.flatten(1), z1, z2))
    branches = gated_in_numpy(x, linear["lower_encoder.layers.0.0"]), gated_in_numpy(second, linear["top_branch.0.0"])
    joined = gated_in_numpy(np.concatenate(branches, axis=-1), linear["inner_posterior.layers.0.0"])
    head = linear["inner_posterior.normal.head"]
    mean, log_scale = np.split(joined @ weight_of(head).T + bias_of(head), 2, axis=-1)
    drawn = sites_of(poutine.condition(model.guide, {"z2": z2}), images)["z1"]["fn"]
    # float32 sums of some hundred terms of order 1.
    np.testing.assert_allclose(drawn.mean.detach(), mean, atol=1e-5)
    np.testing.assert_allclose(drawn.stddev.detach(), np.exp(np.clip(log_scale, -3, 1)), atol=1e-5)
    branches = [gated_in_numpy(z, linear[f"decoder.branches.{place}.0.0"]) for place, z in enumerate((first, second))]
    joined = gated_in_numpy(np.concatenate(branches, axis=-1), linear["decoder.decoder.layers.0.0"])
    output = linear["decoder.decoder.output"]
    logits = joined @ weight_of(output).T + bias_of(output)
    decoded = model.decode(torch.cat([z1, z2], -1)).flatten(1)
    np.testing.assert_allclose(decoded.detach(), 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("levels", ["one", "hvae_branched"])
def test_encoders_see_pixels_around_0_or_from_0_to_1(build, levels, centered):
    model, images = build(levels=levels, center_inputs=centered), torch.rand(5, 1, 8, 8)
    seen = []
    for name, part in model.named_modules():
        if name.endswith("encoder"):
            part.register_forward_pre_hook(lambda _, args: seen.extend(args))
    model.represent(images)
    assert len(seen) == (2 if levels == "hvae_branched" else 1)
    for given in seen:
        torch.testing.assert_close(given, 2 * images - 1 if centered else images)


def test_pyro_can_train_it_by_itself(make_model, digits):
    assert not pyro.settings.get("module_local_params")
    model, images = make_model(), digits[:100].float() / 255
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(images) for _ in range(40)]
    assert set(pyro.get_param_store()) == {f"vae$$${name}" for name, _ in model.named_parameters()}
    # The first steps save tens of nats per image; draws move a step's loss by less than one.
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 5 * len(images)


@pytest.mark.parametrize("levels", LEVELS)
def test_nothing_is_registered_when_modules_keep_their_parameters(build, levels):
    pyro.settings.set(module_local_params=True)
    model, images = build(levels=levels), torch.rand(5, 1, 8, 8)
    model.model(images)
    model.guide(images)
    assert len(pyro.get_param_store()) == 0


# --- Conditional on a label


@pytest.mark.parametrize("levels", LEVELS)
def test_a_conditional_model_sees_the_label_on_both_ways(build, levels):
    model, images, labels = build(levels=levels, condition="label"), torch.rand(3, 1, 8, 8), torch.arange(3)
    others, latents = (labels + 1) % 3, torch.randn(3, SIZES[levels])
    assert model.classes == 3
    assert (model.encode(images, labels).mean != model.encode(images, others).mean).all(-1).all()
    assert (model.decode(latents, labels) != model.decode(latents, others)).flatten(1).any(1).all()
    assert (model.sample(3, 0, labels) != model.sample(3, 0, others)).flatten(1).any(1).all()


@pytest.mark.parametrize("levels", LEVELS)
def test_each_image_has_its_own_label(build, levels):
    model, images, labels = build(levels=levels, condition="label"), torch.rand(3, 1, 8, 8), torch.tensor([2, 0, 1])
    one_by_one = [model.reconstruct(images[i : i + 1], labels[i : i + 1]) for i in range(3)]
    # Matrix products of other sizes may add up in another order.
    torch.testing.assert_close(model.reconstruct(images, labels), torch.cat(one_by_one))
    latents = torch.randn(2, 3, SIZES[levels])
    one_by_one = [model.decode(latents[:, i], labels[i : i + 1].expand(2)) for i in range(3)]
    torch.testing.assert_close(model.decode(latents, labels), torch.stack(one_by_one, 1))


def test_a_conditional_model_asks_for_labels(build):
    model = build(condition="label")
    for call in (
        lambda: model.encode(torch.rand(2, 1, 8, 8)),
        lambda: model.decode(torch.randn(2, 3)),
        lambda: model.sample(2, seed=0),
        lambda: model.draw_prior(2, seed=0),
        lambda: model.draw_posterior(torch.rand(2, 1, 8, 8), 3, seed=0),
    ):
        with pytest.raises(ValueError, match="the model is conditional: give the images' labels too"):
            call()


@pytest.mark.parametrize("levels", LEVELS)
def test_labels_are_nothing_to_an_unconditional_model(build, levels):
    model, images, labels = build(levels=levels), torch.rand(3, 1, 8, 8), torch.arange(3)
    assert model.classes == 0
    assert torch.equal(model.reconstruct(images, labels), model.reconstruct(images))
    assert torch.equal(model.sample(3, 0, labels), model.sample(3, 0))


# --- Images of three channels, and copies


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli", "discretized_logistic"])
@pytest.mark.parametrize("network", ["mlp", "gated_mlp", "conv", "resnet"])
@pytest.mark.parametrize("keys", [{}, {"levels": "hvae", "prior": "vampprior"}, {"condition": "label"}], ids=str)
def test_color_images_go_in_and_come_out(small_settings, make_train, network, likelihood, keys):
    sizes = {"encoder_widths": [4, 4], "decoder_widths": [4, 4], "prior_components": 3}
    settings = small_settings(**(sizes | {"network": network} | keys)).model_copy(update={"likelihood": likelihood})
    model, labels = models.make_model(settings, (3, 6, 5), 3), torch.arange(2)
    images = torch.rand(2, 3, 6, 5).round()
    initialize(model, (images * 255).to(torch.uint8), make_train())
    assert model.reconstruct(images, labels).shape == (2, 3, 6, 5)
    assert model.sample(2, 0, labels).shape == (2, 3, 6, 5)
    terms = elbo_terms(model.model, model.guide, images, labels)
    assert terms.elbo.shape == (2,)
    terms.elbo.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_copys_vampprior_is_made_of_the_copys_encoder(build):
    model = build(prior="vampprior", prior_components=5)
    twin, z = copy.deepcopy(model), torch.randn(4, 3)
    before = model.prior().log_prob(z)
    with torch.no_grad():
        for parameter in twin.encoder.parameters():
            parameter += 1
    assert torch.equal(model.prior().log_prob(z), before)
    assert not torch.equal(twin.prior().log_prob(z), before)
    assert len(list(model.parameters())) == len({name for name, _ in model.named_parameters(remove_duplicate=False)})


# --- The start


def test_the_decoder_starts_at_the_mean_image(make_model, make_train, digits):
    model = make_model()
    initialize(model, digits, make_train())
    with torch.no_grad():
        model.decoder.output.weight.zero_()
    mean = (digits.float() / 255).mean(0)
    # Within float32 of the mean image, and of 0.001 where no digit has any ink.
    torch.testing.assert_close(model.sample(2, seed=0), mean.clamp(0.001, 0.999).expand(2, 1, 8, 8))


def test_pseudo_inputs_start_at_images_each_taken_once(build, make_train, digits):
    model = build(prior="vampprior", prior_components=20)
    initialize(model, digits[:30], make_train())
    taken = model.prior.logits.sigmoid()
    clipped = (digits[:30].float() / 255).clamp(0.05, 0.95)
    distances = (taken[:, None] - clipped).abs().amax((-3, -2, -1))
    # A logit and a sigmoid in float32; two digits differ by more than 0.1 in some pixel.
    assert (distances.min(1).values < 1e-6).all()
    assert len(distances.argmin(1).unique()) == 20
