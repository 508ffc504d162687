"""Several ranks train the model that one trains: losses, gradients, weights and validation, step by step."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.conftest import PARAMS, SMALL_MODEL, SMALL_TRAINING, as_split, clean_state
from tests.processes import on_ranks
from vae.device import set_up
from vae.model import make_model
from vae.settings import parse_settings
from vae.training import exchange
from vae.training.initialization import initialize
from vae.training.step import Step
from vae.training.validation import mean_bound, mean_terms

pytestmark = pytest.mark.slow

IMAGES, BATCH = 98, 32  # the last of an epoch's mini-batches holds 2 images, fewer than 4 ranks
EPOCHS = 2
FLOWS = {"flow_widths": [12], "posterior_layers": 2, "prior_layers": 3}
IN_PARTS, RECORD_IN_PARTS = "gradients in two parts", "gradients in two parts, as a record"
CASES = {
    "the default of params.yaml": ({name: PARAMS["model"][name] for name in SMALL_MODEL}, {"batch_size": 33}),
    "a flow posterior": (FLOWS | {"posterior": "iaf"}, {}),
    "a VampPrior": ({"prior": "vampprior", "prior_components": 7}, {}),
    "five draws of the IWAE": ({}, {"objective": "iwae", "particles": 5}),
    "DReG": (FLOWS | {"prior": "realnvp"}, {"objective": "dreg", "particles": 3}),
    "free bits": ({"levels": "hvae", "top_dim": 2, "inner_widths": [8]}, {"free_bits": 0.7}),
    "a full covariance and labels": ({"posterior": "full_covariance", "condition": "label"}, {"kl": "sampled"}),
    "dropout": ({"dropout": 0.3}, {"particles": 2}),
    "dropout in images": (
        {"network": "resnet", "encoder_widths": [4], "decoder_widths": [4], "residual_blocks": 1, "dropout": 0.3},
        {"particles": 2},
    ),
    "a norm of all gradients": ({}, {"gradient_clip": 1.0, "weight_decay": 0.1, "ema_decay": 0.9}),
    "streamed images": ({}, {"images": "streamed"}),
    "a record": ({"levels": "iwae", "top_dim": 2, "inner_widths": [8]}, {"step": "recorded"}),
    IN_PARTS: ({}, {"free_bits": 0.7, "normalize_gradients": True}),
    RECORD_IN_PARTS: ({}, {"step": "recorded", "gradient_clip": 1.0}),
}


def trained(name):
    """Two epochs of a case: losses, gradients and weights after each step, sums, validation and the random state."""
    model_keys, train_keys = CASES[name]
    values = copy.deepcopy(PARAMS)
    values["model"] |= SMALL_MODEL | model_keys
    values["train"] |= SMALL_TRAINING | {"epochs": EPOCHS, "batch_size": BATCH, "step": "eager"} | train_keys
    settings = parse_settings(values, name)
    set_up("cpu")
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target)
    model = make_model(settings.model, (1, 8, 8), 10)
    initialize(model, images[:IMAGES], settings.train)
    in_parts = name in (IN_PARTS, RECORD_IN_PARTS)
    with pytest.MonkeyPatch.context() as patch:
        if in_parts:
            patch.setattr(exchange, "PART", 250)
        step = Step(model, images[:IMAGES], True, settings.train, labels[:IMAGES])
    assert not step.exchange or len(step.exchange.parts) == 1 + in_parts
    found = {"losses": [], "gradients": [], "weights": [], "totals": []}
    update = step._update

    def observed(gradients):
        found["gradients"].append(torch.cat([gradient.flatten() for gradient in gradients]).clone())
        update(gradients)
        found["weights"].append(torch.cat([parameter.detach().flatten() for parameter in step.parameters]).clone())

    step._update = observed
    for _ in range(EPOCHS):
        step.begin_epoch()
        whole, rest = divmod(IMAGES, settings.train.batch_size)
        for size in [settings.train.batch_size] * whole + [rest] * bool(rest):
            step(size)
        found["losses"].append(step.losses.clone())
        found["totals"].append(step.totals.clone())
    held_out = as_split(images[-50:], labels[-50:])
    model.eval()
    found["validation"] = torch.tensor([*mean_terms(model, held_out, 3), mean_bound(model, held_out, 3, 4)])
    found["random"] = torch.get_rng_state()
    return {key: torch.stack(value) if isinstance(value, list) else value for key, value in found.items()}


def all_cases():
    return {name: trained(name) for name in CASES} | {"again": trained(RECORD_IN_PARTS)}


@pytest.fixture(scope="module")
def single():
    with clean_state():
        torch.set_num_threads(1)
        return all_cases()


@pytest.fixture(scope="module", params=[2, 4])
def several(request):
    return on_ranks(request.param, all_cases)


@pytest.mark.parametrize("name", CASES)
def test_several_ranks_compute_what_one_computes(single, several, name):
    one, first = single[name], several[0][name]
    torch.testing.assert_close(first["losses"], one["losses"], rtol=1e-4, atol=0)
    torch.testing.assert_close(first["totals"], one["totals"], rtol=1e-4, atol=0)
    torch.testing.assert_close(first["validation"], one["validation"], rtol=1e-3, atol=0)
    # Element by element, rounding is as large as small gradients; Adam then makes a step of them all the same.
    for mine, theirs in zip(first["gradients"], one["gradients"], strict=True):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm()
    for mine, theirs in zip(first["weights"], one["weights"], strict=True):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm()
    assert torch.equal(first["random"], one["random"])


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_hold_the_same_bytes(several, name):
    first, *others = several
    for other in others:
        assert all(torch.equal(first[name][key], other[name][key]) for key in first[name])


def test_a_run_repeats_to_the_byte(several):
    first = several[0]
    assert all(torch.equal(first["again"][key], first[RECORD_IN_PARTS][key]) for key in first["again"])
