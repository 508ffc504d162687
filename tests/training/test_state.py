"""The whole state of a run, saved and restored."""

import pytest
import torch

from vae.training.progress import Progress
from vae.training.state import resume, save
from vae.training.step import Step

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture
def make_step(data, make_model, make_train):
    """Give a function: a step of a new model in the middle of its first epoch."""

    def make(seed):
        step = Step(make_model(seed=seed), data.train.images, True, make_train(ema_decay=0.9))
        step.begin_epoch()
        step(64)
        return step

    return make


def test_a_restored_run_has_the_same_progress_tensors_and_random_numbers(make_step, tmp_path, capsys):
    step, other = make_step(0), make_step(1)
    progress = Progress(epoch=1, batch=1, history=[{"epoch": 1, "train_elbo": -90.0}], best_epoch=1)
    save(step, progress, tmp_path)
    drawn = torch.rand(5)
    assert resume(other, 3, tmp_path) == progress
    assert capsys.readouterr().out == "resuming from checkpoint: after epoch 1 and 1 steps of the next\n"
    assert torch.equal(torch.rand(5), drawn)
    for name, tensor in step.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name


def test_without_a_state_there_is_nothing_to_resume(make_step, tmp_path):
    assert resume(make_step(0), 3, tmp_path) is None


@pytest.mark.parametrize(("epochs", "usable"), [(3, True), (2, True), (1, False)])
def test_a_state_beyond_the_run_is_left_alone(make_step, tmp_path, epochs, usable):
    step, other = make_step(0), make_step(1)
    save(step, Progress(epoch=2), tmp_path)
    before = {name: tensor.clone() for name, tensor in other.tensors().items()}
    assert (resume(other, epochs, tmp_path) is not None) == usable
    assert all(torch.equal(before[name], tensor) for name, tensor in other.tensors().items()) != usable
