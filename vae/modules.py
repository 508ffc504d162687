"""Load a torch module from a file with its weights and the metadata to rebuild it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from vae import files
from vae.errors import UnfitFile, memory_reason

Module = TypeVar("Module", bound=nn.Module)


def load(
    path: str | Path, device: str, what: str, build: Callable[[Mapping[str, Any]], Module]
) -> tuple[Module, dict[str, Any]]:
    """Build a module from a file's metadata and load its weights; returns the module and the metadata.

    The module is on `device` and ready to use: in evaluation mode, its parameters fixed.

    Raises:
        FileError: the file is missing, damaged or does not hold a `what`.
    """
    weights, metadata = files.read_tensors(path, device)
    try:
        module = build(metadata).to(device)
        module.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if memory_reason(error):
            raise
        raise UnfitFile(path, f"not a {what} that this code can read ({error})") from error
    return module.eval().requires_grad_(False), metadata
