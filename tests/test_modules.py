"""A file of weights is a module or one error, whatever it holds: see tests/fuzz_load.py."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vae import modules
from vae.errors import UnfitFile
from vae.files import write_tensors

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.fault
def test_mutated_files_are_models_or_errors_in_bounded_memory():
    command = [sys.executable, "-m", "tests.fuzz_load", "--count", "400", "--seed", "0"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.fault
def test_more_elements_than_torch_can_count_are_refused_before_they_are_asked_for():
    shapes = [(2**31, 1, 1), (2**31, 1), (2**31,)]
    tensors = [torch.ones(()).expand(shape) for shape in shapes]
    with pytest.raises(ValueError, match="its tensors are too few for what its metadata describes"), modules._Budget(1):
        torch.addcmul(*tensors)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda metadata: nn.Linear(10**6, 10**6), "its tensors are too few for what its metadata describes"),
        (lambda metadata: nn.Sequential(*(nn.Linear(1, 100) for _ in range(1000))), "its tensors are too few"),
        (lambda metadata: nn.Linear(2, 3), "torch.float32 of shape ("),
        (
            lambda metadata: nn.Linear(3, 2, dtype=torch.float64),
            ", expected torch.float64",
        ),
        (lambda metadata: nn.Linear(3, 2, bias=False), "bias: unknown"),
        (lambda metadata: nn.BatchNorm1d(3), "num_batches_tracked: missing"),
        (lambda metadata: metadata["x"], "KeyError: 'x'"),
        (lambda metadata: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_weights_that_are_not_those_of_the_metadata_are_refused(tmp_path, build, reason):
    write_tensors(tmp_path / "file", nn.Linear(3, 2).state_dict(), {})
    with pytest.raises(UnfitFile) as caught:
        modules.load(tmp_path / "file", "cpu", "line", build)
    assert str(caught.value).startswith(f"{tmp_path / 'file'}: not a line that this code can read (")
    assert reason in str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    write_tensors(tmp_path / "file", {name: x * value for name, x in nn.Linear(3, 2).state_dict().items()}, {})
    with pytest.raises(UnfitFile, match="values that are not finite"):
        modules.load(tmp_path / "file", "cpu", "line", lambda metadata: nn.Linear(3, 2))
