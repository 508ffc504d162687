"""Training states on the disk: each one whole, the one before kept until the new one is safe.

Checkpoints lie in a scratch folder that DVC does not know, in one subfolder for each identity (settings,
data and code), so that a state never meets a run that it does not belong to.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vae.storage import replacing

_LAST, _BEFORE = "last.pt", "before.pt"


def digest(*parts: Any) -> str:
    """The SHA-256 of tensors, bytes and JSON-able values, as 16 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True).encode()
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def write(folder: Path, state: Mapping[str, Any]) -> None:
    """Save a state of tensors, numbers, strings, lists and mappings; the state before becomes the reserve."""
    payload = io.BytesIO()
    torch.save(dict(state), payload)
    contents = payload.getvalue()
    with replacing(folder / "next.pt") as file:
        file.write(hashlib.sha256(contents).digest() + contents)
    if (folder / _LAST).exists():
        (folder / _LAST).replace(folder / _BEFORE)
    (folder / "next.pt").replace(folder / _LAST)


def read(folder: Path) -> dict[str, Any] | None:
    """The newest state in `folder` that is whole, or None; says so when it passes over a damaged one."""
    for name in (_LAST, _BEFORE):
        path = folder / name
        if not path.exists():
            continue
        contents = path.read_bytes()
        if hashlib.sha256(contents[32:]).digest() == contents[:32]:
            return torch.load(io.BytesIO(contents[32:]), map_location="cpu", weights_only=True)
        # Out of the way, so that the next write does not make it the reserve in place of a whole one.
        path.replace(path.with_suffix(".damaged"))
        print(f"{path}: damaged, set aside; looking for the checkpoint before it")
    return None


def remove(folder: Path) -> None:
    """Remove a finished run's checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)


def others(folder: Path) -> list[Path]:
    """The checkpoint folders beside `folder`: those of other settings, data or code."""
    return sorted(path for path in folder.parent.glob("*") if path.is_dir() and path != folder)
