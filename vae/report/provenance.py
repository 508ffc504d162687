"""Where a run's results come from: checksums of data, code and settings, versions, the machine's type."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "pyro-ppl", "numpy", "scikit-learn")


def checksum(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(folders: Sequence[str | Path]) -> str:
    """The SHA-256 over the names and the contents of all Python files in these folders, whatever Git knows of them."""
    paths = {path.as_posix(): path for folder in folders for path in Path(folder).rglob("*.py")}
    return settings_digest({name: checksum(paths[name]) for name in sorted(paths)})


def settings_digest(settings: Mapping[str, Any]) -> str:
    """The SHA-256 of values that JSON can hold; their order does not count."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """The versions that results depend on."""
    return {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def machine(device: torch.device) -> str:
    """The type of machine: the GPU's name or CPU, and the processor's architecture."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{kind} ({platform.system()}, {platform.machine()})"
