"""A model's file: what it holds, what comes back, and what is refused."""

import pytest
import torch

import vae
from tests.model.conftest import CLASSES
from vae.errors import InputError
from vae.files import read_tensors, write_tensors
from vae.model import load, save
from vae.model import saving as models


def test_a_loaded_model_equals_the_saved_one(saved):
    model, path, _ = saved
    loaded = load(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert torch.equal(loaded.reconstruct(torch.ones(3, 1, 4, 6)), model.reconstruct(torch.ones(3, 1, 4, 6)))


def test_a_loaded_model_knows_its_settings_and_history(saved):
    _, path, settings = saved
    metadata = {"format": 2, "epochs": 7, "classes": CLASSES, "model": settings.model_dump(), "image_shape": [1, 4, 6]}
    assert load(path).metadata == metadata


def test_a_loaded_conditional_model_has_the_files_classes(small_settings, tmp_path):
    settings = small_settings(condition="label")
    save(models.make_model(settings, (1, 8, 8), 3), tmp_path / "model", settings, {"classes": CLASSES})
    loaded = load(tmp_path / "model")
    assert loaded.classes == 3
    assert loaded.sample(2, 0, torch.tensor([0, 2])).shape == (2, 1, 8, 8)


def test_a_loaded_model_is_fixed(saved):
    loaded = load(saved[1])
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_package_offers_load_and_names_what_it_lacks(saved):
    assert vae.load is load
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        _ = vae.save


def test_equal_models_make_equal_files(saved, tmp_path):
    _, path, settings = saved
    save(load(path), tmp_path / "again", settings, {"classes": CLASSES, "epochs": 7})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="absent: not found"):
        load(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "header cut off"])
def test_a_damaged_file_is_named(saved, damage):
    path = saved[1]
    contents = path.read_bytes()
    damaged = {"empty": b"", "garbage": b"\xff" * 500, "truncated": contents[:-10], "header cut off": contents[:20]}
    path.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        load(path)


def without(key):
    return lambda weights, metadata: metadata.pop(key)


@pytest.mark.parametrize(
    "change",
    [
        without("model"),
        without("classes"),
        without("image_shape"),
        lambda weights, metadata: metadata["model"].pop("prior"),
        lambda weights, metadata: metadata["model"].update(prior="unheard of"),
        lambda weights, metadata: metadata["model"].update(colour="red"),
        lambda weights, metadata: metadata["model"].update(prior="vampprior", posterior="iaf"),
        lambda weights, metadata: metadata.update(image_shape=[1, 6, 6]),
        lambda weights, metadata: metadata.update(image_shape=3),
        lambda weights, metadata: metadata.update(image_shape=[4, 6]),
        lambda weights, metadata: metadata.update(classes=None),
        lambda weights, metadata: weights.pop("posterior.head.bias"),
        lambda weights, metadata: weights.update(another=torch.zeros(2)),
    ],
)
def test_a_file_of_another_kind_is_no_model(saved, change):
    path = saved[1]
    weights, metadata = read_tensors(path)
    change(weights, metadata)
    write_tensors(path, weights, metadata)
    with pytest.raises(InputError, match=r"model\.safetensors: not a model that this code can read"):
        load(path)


def test_a_file_of_something_else_is_no_model(tmp_path):
    write_tensors(tmp_path / "test.safetensors", {"images": torch.zeros(2, 1, 8, 8)}, {"dataset": "digits"})
    with pytest.raises(InputError, match=r"test\.safetensors: not a model that this code can read"):
        load(tmp_path / "test.safetensors")
