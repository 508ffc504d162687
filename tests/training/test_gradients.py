"""Recorded and compiled gradients against those of the Pyro programs, over the whole family."""

import platform
import shutil
import sys

import pytest
import torch

from tests.model import test_family
from vae import ranks
from vae.data.images import pixels
from vae.errors import WorkError
from vae.model import make_model
from vae.training import exchange, gradients
from vae.training.exchange import Exchange
from vae.training.gradients import Inputs, by_programs, compiled, recorded
from vae.training.initialization import initialize
from vae.training.step import Step

N, CLASSES = test_family.N, test_family.CLASSES
FAMILY = pytest.mark.parametrize("choice", test_family.PAIRS, ids=lambda choice: "-".join(choice.values()))
TEXTBOOK = test_family.PAIRS[0]  # the first choice of each part
parse = test_family.parse
needs_compiler = pytest.mark.skipif(gradients.compiler() is None, reason="no C++ compiler, or no headers of Python")


@pytest.fixture
def case(lean, parse, digits):
    """Give a function: a combination's model, its training settings, and two mini-batches for it."""

    def make(choice, **train):
        settings = parse(choice)
        dropout = 0 if choice["objective"] == "dreg" else 0.1
        model = make_model(settings.model.model_copy(update={"dropout": dropout}), (1, 8, 8), CLASSES)
        initialize(model, digits[:N], settings.train)
        draw = settings.prepare.binarization == "dynamic"
        labels = torch.arange(N) % CLASSES if model.classes else None
        batches = [
            Inputs(pixels(digits[start : start + N], draw), labels, torch.tensor(weight))
            for start, weight in ((0, 0.5), (N, 0.9))
        ]
        return model, settings.train.model_copy(update=train), batches

    return make


def called(function, inputs):
    torch.manual_seed(7)
    loss, log_likelihood, kl, of_parameters = function(inputs)
    return [loss, log_likelihood, kl, *of_parameters, torch.rand(3)]


@pytest.mark.slow
@FAMILY
def test_a_replay_has_the_programs_bytes(case, choice):
    # Each precision for one half of the family.
    precision = ("float32", "bfloat16")[test_family.PAIRS.index(choice) % 2]
    model, settings, (first, second) = case(choice, precision=precision)
    programs, replay = by_programs(model, settings), recorded(model, settings, first)
    for inputs in (first, second):
        for ours, theirs in zip(called(replay, inputs), called(programs, inputs), strict=True):
            assert torch.equal(ours, theirs)
        with torch.no_grad():  # as after an update
            for parameter in model.parameters():
                parameter.mul_(0.9)


@pytest.mark.slow
@FAMILY
def test_gradients_that_are_handed_over_early_are_the_programs(case, choice, monkeypatch):
    monkeypatch.setattr(exchange, "PART", 100)
    monkeypatch.setattr(ranks, "start_adding_up", lambda values: lambda: None)
    model, settings, (inputs, _) = case(choice, precision="float32")
    expected = called(by_programs(model, settings), inputs)
    for eager in (True, False):
        parts = Exchange(list(model.parameters()))
        function = by_programs(model, settings, parts) if eager else recorded(model, settings, inputs, parts)
        loss, log_likelihood, kl, *of_parameters, drawn = called(function, inputs)
        assert parts.under_way
        *_, sums = parts(loss, torch.zeros(2), of_parameters)
        for ours, theirs in zip([loss, log_likelihood, kl, *sums, drawn], expected, strict=True):
            assert torch.equal(ours, theirs)


def test_a_record_leaves_the_random_state_alone(case):
    model, settings, (inputs, _) = case(TEXTBOOK)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    recorded(model, settings, inputs)
    assert torch.equal(torch.rand(2), expected)


def test_a_replay_leaves_nothing_to_differentiate(case):
    model, settings, (inputs, _) = case(TEXTBOOK)
    loss, *_, of_parameters = recorded(model, settings, inputs)(inputs)
    assert not loss.requires_grad
    assert not any(gradient.requires_grad for gradient in of_parameters)


COMPILED = [TEXTBOOK | {"prior": "realnvp"}, TEXTBOOK | {"network": "conv", "levels": "hvae"}]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("choice", COMPILED, ids=lambda choice: "-".join(choice.values()))
def test_compiled_gradients_agree_and_repeat(case, choice):
    model, settings, (first, second) = case(choice, precision="float32")
    programs, fast = by_programs(model, settings), compiled(model, settings, first)
    for inputs in (first, second):
        values = called(fast, inputs)
        # Fused operations round differently, in float32 by 1e-7 of terms that are larger than their sum.
        torch.testing.assert_close(values, called(programs, inputs), rtol=1e-4, atol=1e-5)
        assert all(torch.equal(one, other) for one, other in zip(values, called(fast, inputs), strict=True))


@pytest.fixture
def broken_compiler(monkeypatch):
    def fail(*_, **__):
        raise OSError("c++: command not found\nand more")

    monkeypatch.setattr(torch._inductor, "compile", fail)


def trained(digits, settings, make_model):
    step = Step(make_model(), digits[:100], True, settings)
    torch.manual_seed(1)
    step.begin_epoch()
    step(64)
    return [tensor.clone() for tensor in step.tensors().values()]


def test_a_long_run_goes_on_where_the_compiler_fails(
    lean, digits, make_train, make_model, broken_compiler, monkeypatch, capsys
):
    monkeypatch.setattr(gradients, "compiler", lambda: "c++")
    monkeypatch.setattr("vae.training.choices.compiler", lambda: "c++")
    long = trained(digits, make_train(epochs=6000, schedule="constant", step="auto"), make_model)
    reason = "training without compiling the step, as the compiler fails: c++: command not found\n"
    assert capsys.readouterr().out == reason
    recorded = trained(digits, make_train(epochs=6000, schedule="constant", step="recorded"), make_model)
    assert all(torch.equal(one, other) for one, other in zip(long, recorded, strict=True))


def test_where_compiling_was_asked_for_a_failure_is_an_error(lean, digits, make_train, make_model, broken_compiler):
    expected = r"train.step: got 'compiled', but this model's step cannot be compiled \(c\+\+: command not found\)"
    with pytest.raises(WorkError, match=expected):
        trained(digits, make_train(step="compiled"), make_model)


def test_a_compiler_is_found_by_its_name_and_says_its_version(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert gradients.compiler() is None
    monkeypatch.setattr(gradients, "compiler", lambda: sys.executable)
    assert gradients.compiler_version() == {"compiler": f"Python {platform.python_version()}"}
