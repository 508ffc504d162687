"""What the tests share: settings, small data and models, and torch and Pyro left as they were found."""

import copy
import os
import random
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
import yaml

from vae.data.images import Split
from vae.device import set_up
from vae.model import VAE
from vae.settings import parse_settings

pytest_plugins = ["tests.checkouts", "tests.fake_cuda"]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="relies on /proc or limits that only Linux has")
posix_only = pytest.mark.skipif(os.name != "posix", reason="relies on pipes or links, which Windows lacks or forbids")

ROOT = Path(__file__).resolve().parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_bytes())

SMALL_MODEL = {
    "latent_dim": 3,
    "encoder_widths": [16],
    "decoder_widths": [16],
    "activation": "tanh",
    "prior": "standard_normal",
}
SMALL_TRAINING = {
    "device": "cpu",
    "epochs": 3,
    "batch_size": 64,
    "learning_rate": 0.01,
    "precision": "float32",
    "snapshot_epochs": [1],
}


def pytest_collection_modifyitems(items):
    """Begin with the slow tests: at the end, short ones keep all processes busy."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def as_split(images, labels=None):
    """A split of uint8 images (n, c, h, w), its labels all 0 if there are none."""
    zeros = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    return Split(images, zeros if labels is None else labels)


@contextmanager
def clean_state():
    """Start with the same seeds and an empty parameter store, and undo what is set globally."""
    pyro_settings, threads = pyro.settings.get(), torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills_memory = torch.utils.deterministic.fill_uninitialized_memory
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    python_state, numpy_state = random.getstate(), np.random.get_state()
    pyro.clear_param_store()
    with torch.random.fork_rng(devices=[]):
        pyro.set_rng_seed(0)
        yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    pyro.clear_param_store()
    pyro.settings.set(**pyro_settings)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fills_memory
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture(autouse=True)
def clean_test():
    """Keep each test from the others; fixtures that last longer come before it, and use `clean_state` themselves."""
    with clean_state():
        yield


@pytest.fixture
def lean():
    """Set torch and Pyro up as the stages do, on the CPU."""
    return set_up("cpu")


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
            ],
        ),
    ]
)
def device(request):
    """Each device in turn, set up as the stages do: what needs a GPU is so also tested on the CPU."""
    return set_up(request.param)


@pytest.fixture
def make_settings():
    """Give a function: params.yaml with some keys changed, as in `make_settings(train={"epochs": 2})`."""

    def make(**sections):
        values = copy.deepcopy(PARAMS)
        for section, keys in sections.items():
            values[section] |= keys
        return parse_settings(values, "params.yaml")

    return make


@pytest.fixture
def make_model(make_settings):
    """Give a function: a small VAE, its weights drawn with a seed; `spread` multiplies them for stronger effects."""

    def make(image_shape=(1, 8, 8), seed=0, spread=1.0, **keys):
        torch.manual_seed(seed)
        prepare = {"binarization": "dynamic" if keys.get("likelihood", "bernoulli") == "bernoulli" else "none"}
        model = VAE(make_settings(model=SMALL_MODEL | keys, prepare=prepare).model, image_shape, classes=10)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= spread
        return model

    return make


@pytest.fixture
def make_train(make_settings):
    """Give a function: the `train` section for a short run on a few digits, with some keys changed.

    A learning rate may be higher than params.yaml allows, as training must notice that whatever it is.
    """

    def make(**keys):
        rate = {"learning_rate": float(keys.pop("learning_rate", SMALL_TRAINING["learning_rate"]))}
        return make_settings(train=SMALL_TRAINING | keys).train.model_copy(update=rate)

    return make


@pytest.fixture(scope="session")
def digits():
    """The 1797 digits inside scikit-learn: uint8 (1797, 1, 8, 8)."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(np.rint(load_digits().images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
