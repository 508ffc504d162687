"""Loading a module from its file."""

import pytest
import torch
from torch import nn

from vae import modules
from vae.errors import MissingFile, UnfitFile
from vae.files import write_tensors


def build(metadata):
    return nn.Sequential(nn.Linear(metadata["inputs"], 2), nn.Dropout())


@pytest.fixture
def path(tmp_path):
    """The file of a small module."""
    write_tensors(tmp_path / "some.safetensors", build({"inputs": 3}).state_dict(), {"inputs": 3})
    return tmp_path / "some.safetensors"


def test_a_module_comes_back_fixed_and_in_evaluation_mode(path):
    module, metadata = modules.load(path, "cpu", "layer", build)
    again, _ = modules.load(path, "cpu", "layer", build)
    assert metadata == {"inputs": 3}
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(module[0].weight, again[0].weight)


@pytest.mark.parametrize(
    ("metadata", "weights"),
    [
        ({}, {}),
        ({"inputs": "three"}, {}),
        ({"inputs": 4}, {}),
        ({"inputs": 3}, {"0.weight": torch.zeros(2, 3)}),
    ],
    ids=["no key", "wrong type", "another size", "a tensor missing"],
)
def test_a_file_that_does_not_fit_is_named_with_what_it_is_not(path, metadata, weights):
    write_tensors(path, weights or build({"inputs": 3}).state_dict(), metadata)
    with pytest.raises(UnfitFile, match=r"some\.safetensors: not a layer that this code can read \("):
        modules.load(path, "cpu", "layer", build)


def test_too_little_memory_is_not_an_unfit_file(path):
    def fail(metadata):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        modules.load(path, "cpu", "layer", fail)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(MissingFile, match=r"absent: not found"):
        modules.load(tmp_path / "absent", "cpu", "layer", build)
