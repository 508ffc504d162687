"""Each number of `model` and `train` at each of its bounds: training ends, or says why it does not."""

import signal

import pytest
import torch

from tests.conftest import as_split
from vae.data.images import Split
from vae.errors import InputError, Interrupted, WorkError, memory_reason
from vae.model import VAE
from vae.settings import Settings
from vae.training import loop
from vae.training.data import Data
from vae.training.loop import train

# What makes a number matter; others are without effect where the default is something else.
USED = {
    "prior_components": {"prior": "gaussian_mixture"},
    "prior_layers": {"prior": "spline", "flow_widths": [4]},
    "posterior_layers": {"posterior": "iaf", "flow_widths": [4]},
    "residual_blocks": {"network": "resnet"},
    "top_dim": {"levels": "hvae", "inner_widths": [4]},
}
SMALL = {"latent_dim": 2, "encoder_widths": [4], "decoder_widths": [4], "prior": "standard_normal"}
MOST_STEPS = 3  # of runs that would take hours


def bounds():
    """Section, key and bound of each number; for a bound that is excluded, a value just inside of it."""
    for section in ("model", "train"):
        properties = Settings.model_json_schema()["$defs"][section.capitalize()]["properties"]
        for key, schema in properties.items():
            schema = schema.get("items", schema)
            if schema.get("type") not in ("integer", "number"):
                continue
            low = schema.get("minimum", schema.get("exclusiveMinimum"))
            high = schema.get("maximum", schema.get("exclusiveMaximum"))
            whole = schema["type"] == "integer"
            yield section, key, 1e-300 if "exclusiveMinimum" in schema else low
            yield section, key, (high - 1 if whole else 0.9999999) if "exclusiveMaximum" in schema else high


@pytest.mark.fault
@pytest.mark.parametrize(("section", "key", "value"), list(bounds()))
def test_a_number_at_its_bound_trains_or_is_refused(make_settings, digits, lean, monkeypatch, section, key, value):
    is_list = isinstance(make_settings().model_dump()[section][key], list)
    sections = {"model": SMALL | USED.get(key, {}), "train": {"epochs": 2, "step": "eager"}}
    sections[section] |= {key: [value] if is_list else value}
    if key == "particles":
        sections["train"]["objective"] = "iwae"
    try:
        settings = make_settings(**sections)
    except InputError as error:
        assert f"{section}." in str(error)
        return
    split = as_split(digits[:20])
    model = VAE(settings.model, (1, 8, 8))
    call, calls = loop.Step.__call__, []

    def counting(step, size):
        call(step, size)
        calls.append(size)
        if len(calls) == MOST_STEPS:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop.Step, "__call__", counting)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        train(model, Data(split, as_split(digits[20:30]), as_split(digits[-5:]), binarize=True), settings.train)
    except WorkError as error:
        assert "not finite" in str(error) and "lower train.learning_rate" in str(error)
    except Interrupted:
        assert len(calls) == MOST_STEPS
    except (MemoryError, RuntimeError) as error:
        assert memory_reason(error)
    else:
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert calls
    assert before == {number: signal.getsignal(number) for number in before}


def test_a_gradient_of_zero_stays_zero_with_the_smallest_epsilon(make_settings, digits, lean):
    # Black images of a black mean leave no gradient, and 0 / epsilon is a number only if epsilon is not 0 in float32.
    settings = make_settings(model=SMALL, train={"epochs": 2, "adam_epsilon": 1e-30})
    assert torch.tensor(settings.train.adam_epsilon, dtype=torch.float32) > 0
    black = Split(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.zeros(20, dtype=torch.int64))
    model = VAE(settings.model, (1, 8, 8))
    with torch.no_grad():
        model.decoder.bias.fill_(-200)
    progress = train(model, Data(black, None, black.first(1), binarize=True), settings.train)
    assert progress.epoch == 2
