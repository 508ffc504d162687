"""A variational autoencoder with Pyro: `vae.load("data/model.safetensors")` gives a trained one."""

import importlib
from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Not an import at the top: stages that need no model should not depend on its code.
    if name == "load":
        return importlib.import_module("vae.model").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
