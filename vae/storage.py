"""Files: atomic writes, and the formats that every stage shares (safetensors, npz, CSV, JSON).

Nothing here ever loads a pickle, and equal contents always make equal bytes.
"""

import csv
import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from vae.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` once it is whole and on the disk.

    When the block raises or the process dies, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One fixed name, so that what a killed process left behind is written over and never piles up.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = str(path)  # which a failed write does not know
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a flat mapping as JSON; raises ValueError on a number that is not finite."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with replacing(path) as file:
        file.write(text.encode())


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that share their keys, which become the header."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as one compressed npz file."""
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read an npz file; raises InputError when it is missing or damaged."""
    # Not np.load, which takes a file with another beginning for a pickle, and its message advises to trust it.
    with readable(path) as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
        return dict(arrays)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and JSON-able metadata as one safetensors file."""
    # One key only: the library writes several in an order that changes from run to run.
    header = {"json": json.dumps(metadata, sort_keys=True, allow_nan=False)}
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as file:
        file.write(safetensors_bytes(contents, header))


def read_tensors(path: str | Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `write_tensors` wrote: its tensors on `device`, and its metadata.

    Raises:
        InputError: the file is missing or damaged.
    """
    with readable(path), safe_open(path, framework="pt") as file:
        names = file.keys()
        tensors, metadata = {name: file.get_tensor(name) for name in names}, dict(json.loads(file.metadata()["json"]))
    return {name: tensor.to(device) for name, tensor in tensors.items()}, metadata


@contextmanager
def readable(path: str | Path) -> Iterator[BinaryIO]:
    """Open `path`, and turn the errors of whoever reads it in this block into an InputError that says what to do."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run `dvc repro`, which makes it") from error
    except PermissionError as error:
        raise InputError(f"{path}: this user may not read it") from error
    except Exception as error:  # zipfile, zlib, numpy and safetensors have a dozen kinds of them for damage
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: damaged ({reason}); delete it and run `dvc repro`") from error
