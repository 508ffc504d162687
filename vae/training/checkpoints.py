"""Checkpoints on disk: written atomically, the previous one kept until the new one is safe.

Each run has its own folder, named by a digest of everything that its results depend on (settings, data, code,
versions, type of device), so that a run never loads the state of a different one. What changes results by rounding
only, such as the number of threads, is kept beside the state.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from vae.errors import memory_reason, printable
from vae.files import replacing, write_json

_LAST, _BEFORE, _PARTS, _CONDITIONS = "last.pt", "before.pt", "identity.json", "conditions.json"
_FOLDER = re.compile(r"[0-9a-f]{16}")
_WRITTEN = rf"next\.pt|{_PARTS}|{_CONDITIONS}"
_FILES = re.compile(rf"(last|before)\.(pt|damaged)|{_WRITTEN}|\.({_WRITTEN})\.\d+-[0-9a-f]{{8}}\.tmp")


def digest(*parts: Any) -> str:
    """The SHA-256 of tensors, bytes and JSON-able values, as 16 hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.contiguous().view(-1).view(torch.uint8).numpy()
        elif not isinstance(part, bytes):
            part = json.dumps(part, sort_keys=True).encode()
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def write(folder: Path, state: Mapping[str, Any]) -> None:
    """Save a state of tensors, numbers, strings, lists and mappings; the previous state becomes the reserve."""
    payload = io.BytesIO()
    torch.save(dict(state), payload)
    contents = payload.getvalue()
    with replacing(folder / "next.pt") as file:
        file.write(hashlib.sha256(contents).digest() + contents)
    if (folder / _LAST).exists():
        (folder / _LAST).replace(folder / _BEFORE)
    (folder / "next.pt").replace(folder / _LAST)


def read(folder: Path, check: Callable[[Any], None] = lambda state: None) -> dict[str, Any] | None:
    """The newest state in `folder` that is intact and for which `check` raises nothing, or None.

    Any other state is set aside, with a line that says why.
    """
    for name in (_LAST, _BEFORE):
        path = folder / name
        if not path.exists():
            continue
        contents = path.read_bytes()
        try:
            if hashlib.sha256(contents[32:]).digest() != contents[:32]:
                raise ValueError("damaged")
            state = torch.load(io.BytesIO(contents[32:]), map_location="cpu", weights_only=True)
            check(state)
            return state
        except Exception as error:  # a file may hold anything
            if memory_reason(error):
                raise
            # Moved away, so that the next write does not make it the reserve in place of an intact one.
            path.replace(path.with_suffix(".damaged"))
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            print(f"{path}: {printable(reason)}, set aside; trying the checkpoint before it")
    return None


def is_own(folder: Path) -> bool:
    """Whether a folder is named as those of runs are, and holds nothing but what runs write."""
    if folder.is_symlink() or not folder.is_dir() or not _FOLDER.fullmatch(folder.name):
        return False
    return all(_FILES.fullmatch(path.name) and path.is_file() and not path.is_symlink() for path in folder.iterdir())


def remove(folder: Path) -> None:
    """Remove a run's checkpoints, and their folder unless it holds anything else; raises OSError."""
    # The newest state almost last: whatever a removal that is cut short leaves is either a state or recognized as none.
    ours = [path for path in folder.glob("*") if _FILES.fullmatch(path.name)]
    for path in sorted(ours, key=lambda path: (path.name == _PARTS, path.name == _LAST)):
        path.unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def place(scratch: Path, parts: Mapping[str, Any]) -> Path:
    """The folder in `scratch` of the run whose results depend on `parts`.

    `parts` maps names to JSON-able values: a single value, or a mapping that is compared key by key.
    """
    return scratch / digest(parts)


def claim(scratch: Path, parts: Mapping[str, Any]) -> Path:
    """Write `parts` to the run's folder, and return the folder; removes the folders of runs that left no state."""
    for path in scratch.glob("*"):
        # Its run ended before the first checkpoint, or while its folder was made or removed.
        if is_own(path) and not _has_state(path):
            with suppress(OSError):
                remove(path)
    folder = place(scratch, parts)
    write_json(folder / _PARTS, parts)
    return folder


def write_conditions(folder: Path, values: Mapping[str, Any]) -> None:
    """Write how the run in a folder computes."""
    write_json(folder / _CONDITIONS, values)


def conditions(folder: Path) -> dict[str, Any] | None:
    """How the run that left a state in a folder computed, or None if there is no state or it is not known."""
    return _read(folder / _CONDITIONS) if _has_state(folder) else None


def others(scratch: Path, parts: Mapping[str, Any]) -> dict[Path, str]:
    """Why the states in the other folders cannot be used: what differs between their runs and the one with `parts`.

    Such as "it was made with different settings (train.learning_rate) and device (cuda, here cpu)".
    """
    beside = sorted(path for path in scratch.glob("*") if path != place(scratch, parts))
    return {path: _difference(path, parts) for path in beside if _has_state(path)}


def _has_state(folder: Path) -> bool:
    return (folder / _LAST).exists() or (folder / _BEFORE).exists()


def _difference(other: Path, parts: Mapping[str, Any]) -> str:
    theirs = _read(other / _PARTS)
    if theirs is None:
        return f"it does not say what it was made with (no readable {_PARTS})"
    return f"it was made with different {differences(theirs, parts)}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What differs, such as "settings (train.learning_rate) and device (cuda, here cpu)"; empty if nothing does."""
    ours = json.loads(json.dumps(ours))
    found = [text for name in {**ours, **theirs} if (text := _compare(name, theirs.get(name), ours.get(name)))]
    return " and ".join([", ".join(found[:-1]), found[-1]] if found[1:] else found)


def _compare(name: str, theirs: Any, ours: Any) -> str:
    """The description of a part that differs: its name, and both values or the differing keys; empty if none differ."""
    if theirs == ours:
        return ""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
        return f"{name} ({', '.join(keys)})"
    return f"{name} ({theirs}, here {ours})"
