"""The compute device, set up so that the same settings give the same bytes."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pyro
import torch

from vae import ranks
from vae.errors import SettingError
from vae.settings import Device

# More threads do not help at this project's matrix sizes.
MOST_THREADS = 16

_SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn)


@contextmanager
def matrix_precision(precision: str) -> Iterator[None]:
    """Let float32 matrix products and convolutions on CUDA use TF32 if `precision` is `tf32`, and only then."""
    before = _switch_tf32([precision == "tf32"] * len(_SWITCHES))
    try:
        yield
    finally:
        _switch_tf32(before)


def _switch_tf32(allowed: list[bool]) -> list[bool]:
    """Set the switches, and return how they were set before."""
    with warnings.catch_warnings():
        # torch 2.9 warns of this name; after the newer one, `fp32_precision`, torch.export fails.
        warnings.filterwarnings("ignore", "Please use the new API settings")
        before = [switch.allow_tf32 for switch in _SWITCHES]
        for switch, value in zip(_SWITCHES, allowed, strict=True):
            switch.allow_tf32 = value
    return before


def threads_each(runs: int) -> int:
    """How many threads each of some runs may use: its part of the cores, up to OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked, share = os.environ.get("OMP_NUM_THREADS", ""), max(cores // runs, 1)
    return min(share, int(asked)) if asked.isdecimal() and int(asked) else share


def set_up(name: Device) -> torch.device:
    """Choose the device and make torch deterministic and Pyro lean; call it before the first CUDA operation.

    The ranks of a machine share its cores, and each has a GPU of its own.

    Raises:
        SettingError: cuda was asked for and torch finds none, or there are more ranks than GPUs.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _use_deterministic_algorithms()
    # Only helps code that reads memory it never wrote, and costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_num_threads(min(threads_each(ranks.on_this_machine()), MOST_THREADS))
    # cuDNN's convolutions use TF32 unless told otherwise; matrix products do not.
    _switch_tf32([False] * len(_SWITCHES))
    pyro.enable_validation(False)
    pyro.settings.set(module_local_params=True)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("train.device", "got 'cuda', but torch finds no CUDA device; allowed here: auto, cpu")
    if name == "cpu" or ranks.count() == 1:
        return torch.device(name)
    if ranks.on_this_machine() > torch.cuda.device_count():
        found, most = ranks.on_this_machine(), torch.cuda.device_count()
        raise SettingError("train.processes", f"got {found} on this machine, allowed: at most {most}, one for each GPU")
    return torch.device(name, ranks.local())


def _use_deterministic_algorithms() -> None:
    # torch's function of this name imports its compiler, for seconds, to set it up as well; a variable does so later.
    if "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(True)
    else:
        os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
        torch.set_deterministic_debug_mode("error")


def preserved_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Restore the random states of the CPU and of `device` at the end of the block."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw with this seed on the CPU and on `device`, and leave the caller's random state untouched."""
    with preserved_random_state(device):
        torch.manual_seed(seed)
        yield
