"""CUDA tensors without a GPU: shapes, types and devices are real, values are made up; no backward pass."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

SCALARS = {"__bool__": bool, "__int__": int, "__float__": float, "__index__": int}
# Indexing and copying in torch 2.9 ask the driver for the device, whatever the tensor.
NEEDS_DRIVER = not hasattr(torch._C, "_ensureCUDADeviceGuardSet")


class MadeUp(TorchFunctionMode):
    """Lets the host read ones from tensors without values; numpy takes tensors of the CPU only, as always."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in {"numpy", "__array__", "item", "tolist", "cpu", "__format__", *SCALARS} and not _has_values(args[0]):
            return self._read(name, *args)
        if name == "__getitem__" and NEEDS_DRIVER and not _has_values(args[0]):
            return self._index(*args)
        if name == "copy_" and NEEDS_DRIVER and not _has_values(args[0]):
            return args[0]
        return function(*args, **(kwargs or {}))

    @staticmethod
    def _read(name, tensor, *arguments):
        ones = np.ones(tensor.shape, dtype=str(tensor.dtype).removeprefix("torch."))
        if name == "cpu":
            return torch.ones(tensor.shape, dtype=tensor.dtype)
        if name in ("numpy", "__array__"):
            if tensor.device.type != "cpu":
                raise TypeError(f"numpy was given a tensor on {tensor.device}")
            return ones
        if name == "__format__":
            return format(1.0, *arguments)
        return SCALARS[name](1) if name in SCALARS else ones.tolist()

    @staticmethod
    def _index(tensor, index):
        parts = index if isinstance(index, tuple) else (index,)
        parts = [_like(part, "meta") if isinstance(part, torch.Tensor) else part for part in parts]
        return _like(_like(tensor, "meta")[tuple(parts)], tensor.device)


def _has_values(tensor):
    return not (isinstance(tensor, FakeTensor) or tensor.device.type == "meta")


def _move(module, device=None, **_):
    """`Module.to` in place, which for fake tensors fails: parameters and buffers, and no other tensor, are moved."""
    for part in module.modules() if device else ():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_like(parameter, device), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _like(buffer, device)
    return module


def _like(tensor, device):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


@pytest.fixture
def fake_cuda(monkeypatch):
    """A context in which operations take CUDA tensors only, and refuse those of the CPU; gives the device.

    Modules are made before it, as Pyro's read values, and moved to the device inside it.
    """

    @contextlib.contextmanager
    def entered():
        generator = torch.Generator
        with monkeypatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=False), MadeUp():
            patch.setattr(torch, "Generator", lambda device="cpu": generator())
            patch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
            patch.setattr(nn.Module, "to", _move)
            yield torch.device("cuda", 0)

    return entered()


@contextlib.contextmanager
def autocast(device):
    """`torch.autocast` in bfloat16, which turns itself off where there is no such device."""
    torch.set_autocast_dtype(device.type, torch.bfloat16)
    torch.set_autocast_enabled(device.type, True)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device.type, False)
        torch.clear_autocast_cache()
