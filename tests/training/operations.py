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
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}


def name_of(function):
    return function.name().split("::")[1].split(".")[0]


class NoReads(TorchDispatchMode):
    """Refuse what makes the host wait for a tensor's value on a GPU, an index by a mask included."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = name_of(function)
        masked = name in INDEXED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        # Pyro's plates make an empty tensor, to see which device is the default.
        empty = name == "lift_fresh" and args[0].numel() == 0
        if (name in READS or masked or "unique" in name) and not (empty or NoCopies.exempt):
            raise AssertionError(f"{function.name()} waits for the device")
        return function(*args, **(kwargs or {}))


class NoCopies(TorchFunctionMode):
    """Refuse what reads a CPU tensor past the dispatcher, and let `one_hot` check its input, as on the CPU alone."""

    exempt = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("tolist", "numpy", "cpu", "__array__"):
            raise AssertionError(f"{name} waits for the device")
        NoCopies.exempt = name == "one_hot"
        try:
            return function(*args, **(kwargs or {}))
        finally:
            NoCopies.exempt = False


class Operations(TorchDispatchMode):
    """Collect the names of the operations that compute something: a view of a tensor is none."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view and name_of(function) not in ("detach", "_unsafe_view", "empty", "empty_like"):
            self.names.append(name_of(function))
        return function(*args, **(kwargs or {}))
