"""What the tests of the model share: small models, one with a file, and the sites of their programs."""

import pytest
import torch
from pyro import poutine

from vae.model import save
from vae.model import saving as models

CLASSES = ["cat", "dog", "bird"]


@pytest.fixture
def small_settings(make_settings):
    """Give a function: the `model` section of a small model, with some keys changed."""
    sizes = {"latent_dim": 3, "top_dim": 2, "encoder_widths": [16], "decoder_widths": [16], "inner_widths": [6]}
    return lambda **keys: make_settings(model=sizes | {"prior": "standard_normal"} | keys).model


@pytest.fixture
def build(small_settings):
    """Give a function: a small model for 8 x 8 images of three classes, its weights drawn with a seed."""

    def build(**keys):
        torch.manual_seed(0)
        return models.make_model(small_settings(**keys), (1, 8, 8), len(CLASSES))

    return build


@pytest.fixture
def saved(small_settings, tmp_path):
    """A model with weights of its own, the file that it was saved to, and its settings as that file holds them."""
    settings = small_settings(latent_dim=2, encoder_widths=[5], decoder_widths=[], activation="gelu")
    model, path = models.make_model(settings, (1, 4, 6), len(CLASSES)), tmp_path / "model.safetensors"
    save(model, path, settings, {"format": 2, "epochs": 7, "classes": CLASSES})
    return model, path, settings


def sites_of(program, *args):
    trace = poutine.trace(program).get_trace(*args)
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
