"""What a training step asks of torch, seen from below: the operations dispatched, and those that read a value."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    "_local_scalar_dense",
    "bincount",
    "equal",
    "is_nonzero",
    "lift_fresh",
    "masked_select",
    "nonzero",
    "repeat_interleave",
}
INDEXED = {"index", "_unsafe_index"}
# What deterministic mode on CUDA makes a sort and a dozen kernels of, and in older versions a read as well.
SORTS = {"index_add", "index_copy", "index_put", "_index_put_impl", "_unsafe_index_put", "scatter", "scatter_add"}


def name_of(function):
    return function.name().split("::")[1].split(".")[0]


class NoReads(TorchDispatchMode):
    """Refuse what makes the host wait for a tensor's value on a GPU, an index by a mask included, and what sorts."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = name_of(function)
        masked = name in INDEXED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        # Pyro's plates make an empty tensor, to see which device is the default.
        empty = name == "lift_fresh" and args[0].numel() == 0
        if (name in READS or masked or "unique" in name) and not empty:
            raise AssertionError(f"{function.name()} waits for the device")
        if name.rstrip("_") in SORTS:
            raise AssertionError(f"{function.name()} sorts its indices in deterministic mode")
        return function(*args, **(kwargs or {}))


class NoCopies(TorchFunctionMode):
    """Refuse what reads a CPU tensor past the dispatcher."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("tolist", "numpy", "cpu", "__array__"):
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Collect the names of the operations that compute something on a device: a view of a tensor is none."""

    def __init__(self, device):
        super().__init__()
        self.device = device
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        # The indices of Pyro's plates, which nothing here uses, lie on the CPU.
        elsewhere = isinstance(result, torch.Tensor) and result.device.type != self.device
        made = name_of(function) not in ("detach", "_unsafe_view", "empty", "empty_like")
        if made and not function.is_view and not elsewhere:
            self.names.append(name_of(function))
        return result
