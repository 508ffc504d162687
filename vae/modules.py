"""Load a torch module from a file with its weights and the metadata to rebuild it."""

import math
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vae import files
from vae.errors import UnfitFile

Module = TypeVar("Module", bound=nn.Module)

_FACTORIES = {
    torch.arange,
    torch.empty,
    torch.eye,
    torch.full,
    torch.linspace,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.tril_indices,
    torch.zeros,
}


def load(
    path: str | Path, device: str, what: str, build: Callable[[Mapping[str, Any]], Module]
) -> tuple[Module, dict[str, Any]]:
    """Build a module from a file's metadata and load its weights; returns the module and the metadata.

    The module is on `device` and ready to use: in evaluation mode, its parameters fixed. Whatever the metadata holds,
    the memory that this takes is bounded by the file's size.

    Raises:
        FileError: the file is missing, damaged or does not hold a `what`.
    """
    weights, metadata = files.read_tensors(path)
    try:
        with _Budget(sum(tensor.numel() for tensor in weights.values())):
            module = build(metadata)
        _check(weights, module.state_dict())
    except MemoryError:
        raise
    except Exception as error:  # the metadata may hold anything
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UnfitFile(path, f"not a {what} that this code can read ({reason})") from error
    module.load_state_dict(weights)
    return module.to(device).eval().requires_grad_(False), metadata


class _Budget(TorchFunctionMode):
    """Raises ValueError before more memory is asked for than a module with `elements` takes to build."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.left = 4 * elements + 10_000  # the masks of an autoregressive network are made in several steps

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        shapes = [value.shape for value in args if isinstance(value, Tensor)]
        if function in _FACTORIES:
            self._spend(function(*args, **(kwargs | {"device": "meta"})).numel())
        elif len(shapes) > 1:
            # Not torch.broadcast_shapes, which takes half a second to import SymPy.
            aligned = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
            sizes = [set(dimension) - {1} for dimension in aligned]
            # If they do not broadcast, the result is no larger than they are.
            if all(len(found) <= 1 for found in sizes):
                self._spend(math.prod(size for found in sizes for size in found))
        return function(*args, **kwargs)

    def _spend(self, elements: int) -> None:
        self.left -= elements
        if self.left < 0:
            raise ValueError("its tensors are too few for what its metadata describes")


def _check(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if names := sorted(weights.keys() ^ expected.keys()):
        raise ValueError(f"{names[0]}: {'unknown' if names[0] in weights else 'missing'}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            found, wanted = (f"{each.dtype} of shape {tuple(each.shape)}" for each in (tensor, expected[name]))
            raise ValueError(f"{name}: {found}, expected {wanted}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name}: values that are not finite")
