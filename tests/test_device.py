import os
import subprocess
import sys

import pyro
import pytest
import torch

from tests.conftest import ROOT
from vae import device
from vae.device import MOST_THREADS, matrix_precision, set_up
from vae.errors import InputError


@pytest.fixture(autouse=True)
def workspace(monkeypatch):
    """Forget how cuBLAS and cuDNN were set up, and put it back at the end."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "to be put back")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    torch.backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize(
    ("name", "available", "expected"),
    [
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_auto_takes_cuda_where_there_is_one(monkeypatch, name, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert set_up(name) == torch.device(expected)


def test_auto_takes_what_this_machine_has():
    torch.zeros(3, device=set_up("auto")).sum().item()


def test_cuda_without_a_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"train\.device: got 'cuda', .* allowed here: auto, cpu"):
        set_up("cuda")


def test_operations_must_be_deterministic():
    torch.use_deterministic_algorithms(False)
    set_up("cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.slow
def test_the_compiler_is_deterministic_too_but_not_imported_for_that():
    code = """
import sys
from vae.device import set_up
set_up("cpu")
assert "torch._inductor" not in sys.modules
import torch._inductor.config
assert torch._inductor.config.deterministic
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_workspace_of_ones_own_is_kept(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_up("cpu")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_new_tensors_are_not_filled():
    set_up("cpu")
    assert not torch.utils.deterministic.fill_uninitialized_memory


def uses_tf32():
    """Whether matrix products and convolutions do."""
    return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]


def test_float32_is_float32_in_convolutions_too():
    assert uses_tf32()[1], "cuDNN's default"
    set_up("cpu")
    assert uses_tf32() == [False, False]


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_tf32_is_for_matrix_products_and_convolutions_and_ends(precision):
    for before in (False, True):
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before, not before
        with pytest.raises(ZeroDivisionError), matrix_precision(precision):
            assert uses_tf32() == [precision == "tf32"] * 2
            raise ZeroDivisionError
        assert uses_tf32() == [before, not before]


def test_pyro_neither_validates_nor_registers_parameters():
    set_up("cpu")
    settings = pyro.settings.get()
    assert settings["module_local_params"]
    assert not any(value for name, value in settings.items() if name.startswith("validate_"))


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (3, 3), (64, MOST_THREADS)])
def test_threads_follow_the_cores_that_may_be_used(monkeypatch, cores, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    set_up("cpu")
    assert torch.get_num_threads() == threads


def test_where_no_limit_is_known_threads_follow_all_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delattr(device.os, "sched_getaffinity", raising=False)  # as on macOS and Windows
    for cores, threads in ((6, 6), (64, MOST_THREADS), (None, 1)):
        monkeypatch.setattr(device.os, "cpu_count", lambda cores=cores: cores)
        set_up("cpu")
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("asked", "threads"), [("1", 1), ("2", 2), ("64", 3), ("", 3), ("0", 3), ("many", 3)])
def test_omp_num_threads_is_an_upper_limit(monkeypatch, asked, threads):
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    set_up("cpu")
    assert torch.get_num_threads() == threads
