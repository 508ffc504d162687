"""What the tests of training share: a few digits, and runs on them."""

import math

import pytest
import torch

from tests.conftest import as_split
from vae.training import loop
from vae.training.data import Data
from vae.training.loop import train

SPLITS = ("train", "validation")


@pytest.fixture
def data(digits):
    """150 digits to train on, 100 to validate, 5 to show."""
    return Data(as_split(digits[:150]), as_split(digits[150:250]), as_split(digits[-5:]), binarize=True)


@pytest.fixture
def unvalidated(data):
    return Data(data.train, None, data.showcase, binarize=True)


@pytest.fixture
def run(make_model, make_train):
    """Give a function: a run of a model (a new one by default) from the same seed, and the model that it leaves."""

    def make(data, model=None, checkpoints=None, after_epoch=lambda _: None, finish_now=lambda: False, **keys):
        model = model or make_model()
        torch.manual_seed(0)
        return train(model, data, make_train(**keys), checkpoints, after_epoch, finish_now), model

    return make


@pytest.fixture
def validation_elbos(monkeypatch):
    """Give a function: let validation find these ELBOs, epoch by epoch."""

    def script(*values):
        remaining = iter(values)
        monkeypatch.setattr("vae.training.epoch.mean_terms", lambda *_: (next(remaining), 0.0, 0.5))

    return script


def break_weights(monkeypatch, at):
    """Make the weights NaN before the step of this number, counted from 0 over all epochs; gives the steps' sizes."""
    call, seen = loop.Step.__call__, []

    def breaking(step, size):
        if len(seen) == at:
            step.parameters[0].detach().fill_(math.nan)
        seen.append(size)
        call(step, size)

    monkeypatch.setattr(loop.Step, "__call__", breaking)
    return seen


def same_weights(left, right):
    return all(torch.equal(tensor, right.state_dict()[name]) for name, tensor in left.state_dict().items())


def broken(model):
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    return model
