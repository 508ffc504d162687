"""The device that computes, set up so that the same settings give the same bytes."""

import os

import pyro
import torch

from vae.errors import InputError
from vae.settings import Device

# Matrices of this project's size are shared out in vain among more threads than this.
MOST_THREADS = 16


def set_up(name: Device) -> torch.device:
    """Choose the device and make torch deterministic and Pyro lean; call it before the first CUDA operation.

    Raises:
        InputError: cuda was asked for and there is none.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Only of use to code that reads memory it never wrote; it costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_num_threads(min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4, MOST_THREADS))
    pyro.enable_validation(False)
    pyro.settings.set(module_local_params=True)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "params.yaml: train.device: got 'cuda', but torch finds no CUDA device; allowed here: auto, cpu"
        )
    return torch.device(name)
