"""A variational autoencoder with Pyro: `vae.load("data/model.safetensors")` gives a trained one."""

import importlib
from typing import Any

__all__ = ["__version__", "load"]
__version__ = "1.0.0"


def __getattr__(name: str) -> Any:
    # Imported on demand: stages that need no model should not depend on its code.
    if name == "load":
        return importlib.import_module("vae.model").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
