"""Where a run's results come from: checksums of files and settings, and the versions of packages."""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vae import identity

PACKAGES = ("torch", "torchvision", "pyro-ppl", "numpy", "scikit-learn")


def checksum(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON-able values, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    return {"Python": platform.python_version(), **identity.versions(PACKAGES)}
