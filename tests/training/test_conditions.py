"""What a run is computed with, and what of it a resumed run takes over."""

import pytest
import torch

from vae.training import conditions as module
from vae.training.conditions import as_begun, conditions, say_what_differs

IMAGES = 60_000
CPU = torch.device("cpu")


@pytest.fixture
def auto(make_train, monkeypatch):
    """Settings in which everything is chosen by the machine, one with a compiler and without fast bfloat16."""
    monkeypatch.setattr("vae.training.choices.compiler", lambda: "c++")
    monkeypatch.setattr(module, "compiler", lambda: "c++")
    monkeypatch.setattr(module, "compiler_version", lambda: {"compiler": "c++ 1.0"})
    monkeypatch.setattr("vae.training.choices._precision", lambda device: "float32")
    return make_train(epochs=1000, step="auto", precision="auto")


def test_conditions_name_what_auto_means_here(auto):
    found = conditions(auto, IMAGES, CPU)
    threads = torch.get_num_threads()
    assert found.pop("machine").startswith("CPU (")
    assert found == {
        "processes": 1,
        "threads": threads,
        "precision": "float32",
        "step": "compiled",
        "compiler": "c++ 1.0",
    }


def test_an_interrupted_run_goes_on_with_its_threads_its_precision_and_its_step(auto):
    before = conditions(auto, IMAGES, CPU) | {"threads": 3, "precision": "bfloat16", "step": "recorded"}
    del before["compiler"]
    taken = as_begun(auto, IMAGES, CPU, before)
    assert conditions(taken, IMAGES, CPU) == before
    assert torch.get_num_threads() == 3


def test_what_the_settings_say_is_not_taken_over(auto):
    settings = auto.model_copy(update={"precision": "float32", "step": "eager"})
    taken = as_begun(settings, IMAGES, CPU, {"processes": 1, "precision": "bfloat16", "step": "recorded"})
    assert taken == settings


def test_a_compiled_run_goes_on_recorded_where_there_is_no_compiler(auto, monkeypatch):
    before = conditions(auto, IMAGES, CPU)
    for place in ("vae.training.choices.compiler", "vae.training.conditions.compiler"):
        monkeypatch.setattr(place, lambda: None)
    assert conditions(as_begun(auto, IMAGES, CPU, before), IMAGES, CPU)["step"] == "recorded"


def test_other_processes_keep_the_threads_that_they_have_here(auto):
    threads = torch.get_num_threads()
    as_begun(auto, IMAGES, CPU, conditions(auto, IMAGES, CPU) | {"processes": 2, "threads": threads + 1})
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "before",
    [
        {},
        {"threads": "two", "processes": 1},
        {"threads": 0, "processes": 1},
        {"threads": True, "processes": 1},
        {"precision": "float8", "step": "walk", "threads": 10**9, "processes": 1},
        {"precision": ["bfloat16"], "step": {}, "processes": None},
    ],
)
def test_conditions_that_nobody_wrote_change_nothing(auto, before):
    threads = torch.get_num_threads()
    assert as_begun(auto, IMAGES, CPU, before) == auto
    assert torch.get_num_threads() == threads


def test_it_is_said_what_was_taken_over_and_what_could_not_be(capsys):
    before = {"machine": "CPU (Linux, x86_64)", "processes": 2, "threads": 2, "step": "recorded"}
    say_what_differs(before, before, before)
    assert not capsys.readouterr().out
    default = before | {"threads": 8, "processes": 1}
    say_what_differs(before, default, default | {"threads": 2})
    assert capsys.readouterr().out.splitlines() == [
        "resuming as the run was begun: threads 2 (here 8)",
        "resuming with different processes (2, here 1): the result differs by rounding from an uninterrupted run's",
    ]
