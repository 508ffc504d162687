import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

import vae
from vae.errors import InputError
from vae.model import load, save
from vae.storage import write_tensors

IMAGE_SHAPES = [(28, 28), (8, 8), (4, 6)]
WIDTHS = [[], [16], [16, 12]]


@pytest.fixture
def saved(make_model, make_settings, tmp_path):
    """A model with weights of its own, and the file that it was saved to with the metadata {"epochs": 7}."""
    keys = {"latent_dim": 2, "encoder_widths": [5], "decoder_widths": [], "activation": "gelu"}
    model, path = make_model((4, 6), seed=5, **keys), tmp_path / "model.safetensors"
    save(model, path, make_settings(model=keys).model, {"epochs": 7})
    return model, path


@pytest.mark.parametrize("image_shape", IMAGE_SHAPES)
@pytest.mark.parametrize("widths", WIDTHS)
def test_results_have_the_documented_shapes(make_model, image_shape, widths):
    model = make_model(image_shape, encoder_widths=widths, decoder_widths=widths)
    images = torch.rand(5, *image_shape)
    q = model.encode(images)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    assert model.decode(torch.randn(2, 5, 3)).shape == (2, 5, *image_shape)
    assert model.reconstruct(images).shape == (5, *image_shape)
    assert model.sample(7).shape == (7, *image_shape)


def test_decoded_images_are_probabilities(make_model):
    model = make_model(spread=10)
    for images in (model.decode(torch.randn(50, 3)), model.reconstruct(torch.rand(50, 8, 8)), model.sample(50)):
        assert 0 <= images.min() < 0.1
        assert 0.9 < images.max() <= 1


def test_decoding_is_the_sigmoid_of_the_decoder(make_model):
    model, latents = make_model(), torch.randn(5, 3)
    logits = model.decoder(latents).detach().double().numpy()
    np.testing.assert_allclose(model.decode(latents).detach(), 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_a_reconstruction_decodes_the_posterior_mean(make_model):
    model, images = make_model(), torch.rand(5, 8, 8)
    assert torch.equal(model.reconstruct(images), model.decode(model.encode(images).mean))


def test_parameters_are_those_of_both_networks_and_the_posterior(make_model):
    model = make_model(encoder_widths=[16], decoder_widths=[12])
    encoder, posterior, decoder = 65 * 16, 17 * 2 * 3, 4 * 12 + 13 * 64
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + posterior + decoder


def test_the_same_generator_gives_the_same_samples(make_model):
    model = make_model()
    first, again, other = (model.sample(5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_generator_leaves_the_global_random_numbers_alone(make_model):
    model, before = make_model(), torch.get_rng_state()
    model.sample(5, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_draws_z_and_observes_the_images_in_one_plate(make_model):
    model, images = make_model(), torch.rand(5, 8, 8)
    trace = poutine.trace(model.model).get_trace(images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    assert list(sites) == ["images", "z", "x"]
    assert [(frame.name, frame.size) for frame in sites["z"]["cond_indep_stack"]] == [("images", 5)]
    assert [(frame.name, frame.size) for frame in sites["x"]["cond_indep_stack"]] == [("images", 5)]
    assert not sites["z"]["is_observed"]
    assert sites["x"]["is_observed"]
    assert sites["z"]["value"].shape == (5, 3)
    assert torch.equal(sites["x"]["value"], images)


def test_the_guide_draws_z_alone_from_the_posterior(make_model):
    model, images = make_model(), torch.rand(5, 8, 8)
    trace = poutine.trace(model.guide).get_trace(images)
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    assert list(sites) == ["images", "z"]
    assert [(frame.name, frame.size) for frame in sites["z"]["cond_indep_stack"]] == [("images", 5)]
    q = model.encode(images)
    assert torch.equal(sites["z"]["fn"].mean, q.mean)
    assert torch.equal(sites["z"]["fn"].stddev, q.stddev)


def test_pyro_can_train_it_by_itself(make_model, digits):
    assert not pyro.settings.get("module_local_params")
    model, images = make_model(), digits[:100].float() / 255
    svi = SVI(model.model, model.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(images) for _ in range(40)]
    assert set(pyro.get_param_store()) == {f"vae$$${name}" for name, _ in model.named_parameters()}
    # The first steps take tens of nats an image off; draws move a step's loss by less than one.
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 5 * len(images)


def test_nothing_is_registered_when_modules_keep_their_parameters(make_model):
    pyro.settings.set(module_local_params=True)
    model, images = make_model(), torch.rand(5, 8, 8)
    model.model(images)
    model.guide(images)
    assert len(pyro.get_param_store()) == 0


def test_a_loaded_model_equals_the_saved_one(saved):
    model, path = saved
    loaded = load(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert torch.equal(loaded.reconstruct(torch.ones(3, 4, 6)), model.reconstruct(torch.ones(3, 4, 6)))


def test_a_loaded_model_knows_its_settings_and_history(saved):
    _, path = saved
    model = {"latent_dim": 2, "encoder_widths": [5], "decoder_widths": [], "activation": "gelu"}
    assert load(path).metadata == {"epochs": 7, "model": model, "image_shape": [4, 6]}


def test_a_loaded_model_is_fixed(saved):
    loaded = load(saved[1])
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_package_offers_load_and_names_what_it_lacks(saved):
    assert vae.load is load
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        _ = vae.save


def test_equal_models_make_equal_files(saved, make_settings, tmp_path):
    _, path = saved
    loaded = load(path)
    save(loaded, tmp_path / "again", make_settings(model=loaded.metadata["model"]).model, {"epochs": 7})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match="absent: not found; run `dvc repro`"):
        load(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "header cut off"])
def test_a_damaged_file_is_named(saved, damage):
    _, path = saved
    contents = path.read_bytes()
    damaged = {"empty": b"", "garbage": b"\xff" * 500, "truncated": contents[:-10], "header cut off": contents[:20]}
    path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        load(path)


def test_a_file_of_something_else_is_no_model(tmp_path):
    write_tensors(tmp_path / "test.safetensors", {"images": torch.zeros(2, 8, 8)}, {"dataset": "digits"})
    with pytest.raises(InputError, match=r"test\.safetensors"):
        load(tmp_path / "test.safetensors")
