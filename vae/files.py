"""Atomic file writes, and the formats that all stages share (safetensors, npz, CSV, JSON).

Nothing here ever loads a pickle, and equal contents always make equal bytes.
"""

import csv
import errno
import io
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from safetensors import safe_open

from vae.errors import DamagedFile, FileError, MissingFile, UnfitFile, memory_reason

if TYPE_CHECKING:  # what reads no tensors need not import torch, which takes seconds
    from torch import Tensor

_TOKEN = secrets.token_hex(4)  # identifies this process, as process ids are reused
_LEFTOVER = re.compile(r"\..+\.(\d+)-([0-9a-f]{8})\.tmp")
_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` once it is complete and, if `durable`, on disk.

    If the block raises or the process dies, `path` stays as it was. Leftovers of killed processes are removed at the
    next write to the same folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    # A name per process, so that none removes or writes the file of another.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{_TOKEN}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno in _WRITE_ERRORS and error.filename is None:
            error.filename = str(path)  # a failed write does not name its file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.iterdir():
        if (found := _LEFTOVER.fullmatch(path.name)) and not _is_writing(int(found[1]), found[2]):
            path.unlink(missing_ok=True)


def _is_writing(process: int, token: str) -> bool:
    if process == os.getpid():
        return token == _TOKEN
    if os.name == "nt":  # where signal 0 is Ctrl-C; a killed process's file stays until somebody deletes it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def write_json(path: str | Path, values: Mapping[str, Any], durable: bool = True) -> None:
    """Write a flat mapping as JSON; raises ValueError if a number is not finite."""
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with replacing(path, durable) as file:
        file.write(text.encode())


def read_numbers(path: str | Path) -> dict[str, int | float]:
    """Read a JSON file of numbers by name, as in `metrics`; raises FileError unless it holds finite numbers only."""
    with readable(path) as file:
        values = json.load(file)
    if not isinstance(values, dict) or not values:
        raise UnfitFile(path, "not a table of numbers by name")
    for name, value in values.items():
        if type(value) not in (int, float) or not abs(value) < 1e300:
            raise UnfitFile(path, f"{name} is {value!s:.50}, expected a finite number")
    return values


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]], durable: bool = True) -> None:
    """Write rows as CSV; their common keys become the header."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with replacing(path, durable) as file:
        file.write(text.getvalue().encode())


def read_table(
    path: str | Path, texts: Sequence[str], numbers: Sequence[str], rows: int | None = None
) -> dict[str, list[str] | list[float]]:
    """Read columns of a file that `write_csv` wrote, as texts and as finite numbers.

    A column of numbers that is empty in every row is left out.

    Raises:
        FileError: the file is missing or damaged, a column is missing, a number is not one or not finite, or there are
            not as many `rows` as expected (by default, at least one).
    """
    with readable(path) as file:
        # Not pandas, whose parser's lack of memory looks like damage; an empty file has no header to unpack.
        header, *lines = csv.reader(io.StringIO(file.read().decode(), newline=""), strict=True)
    if missing := [name for name in (*texts, *numbers) if header.count(name) != 1]:
        raise UnfitFile(path, f"columns {', '.join(header)}, expected one named {missing[0]}")
    if not lines or len(lines) != (rows or len(lines)):
        raise UnfitFile(path, f"{len(lines)} rows, expected {rows or 'at least one'}")
    if uneven := [number for number, line in enumerate(lines, start=1) if len(line) != len(header)]:
        raise UnfitFile(path, f"row {uneven[0]} does not have the header's {len(header)} columns")
    columns = dict(zip(header, map(list, zip(*lines, strict=True)), strict=False))
    found = {name: columns[name] for name in texts}
    return found | {name: _numbers(path, name, columns[name]) for name in numbers if any(columns[name])}


def _numbers(path: str | Path, name: str, column: Sequence[str]) -> list[float]:
    values = []
    for row, text in enumerate(column, start=1):
        try:
            values.append(float(text))
        except ValueError:
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            raise UnfitFile(path, f"{name} is {text[:50]!r} in row {row}, expected a finite number")
    return values


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as one compressed npz file."""
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read an npz file; raises FileError when it is missing or damaged."""
    # Not np.load, which takes unknown formats for pickles and advises in its message to trust them.
    # And from memory, as zipfile calls a file damaged that cannot be read.
    with readable(path) as file, np.lib.npyio.NpzFile(io.BytesIO(file.read()), allow_pickle=False) as arrays:
        # Checked before any array is made, as a damaged header may ask for more memory than there is.
        if damaged := arrays.zip.testzip():
            raise ValueError(f"{damaged} fails its checksum")
        return dict(arrays)


def write_tensors(path: str | Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and JSON-able metadata as one safetensors file."""
    from safetensors.torch import save

    # A single key: the library writes several in an order that changes from run to run.
    header = {"json": json.dumps(metadata, sort_keys=True, allow_nan=False)}
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as file:
        file.write(save(contents, header))


def read_tensors(path: str | Path, device: str = "cpu") -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Read a file that `write_tensors` wrote: its tensors on `device`, and its metadata.

    On the CPU the tensors are parts of the mapped file: they take no memory that the system cannot take back, and stay
    as they were if the file is replaced, but not if it is overwritten in place.

    Raises:
        FileError: the file is missing or damaged.
    """
    with readable(path), safe_open(path, framework="pt") as file:
        names = file.keys()
        tensors, metadata = {name: file.get_tensor(name) for name in names}, dict(json.loads(file.metadata()["json"]))
    return {name: tensor.to(device) for name, tensor in tensors.items()}, metadata


@contextmanager
def readable(path: str | Path) -> Iterator[BinaryIO]:
    """Open `path`, and turn errors from reading it in this block into errors that name it.

    Raises:
        FileError: the file is missing, not accessible to this user, or cannot be parsed.
        OSError: it cannot be read because of an input or output error, which is not damage.
        MemoryError: there is not enough memory to read it.
    """
    try:
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        if error.errno is None and Path(path).exists():  # safetensors, whatever kept it from opening the file
            raise OSError(errno.EIO, "cannot be opened", str(path)) from error
        raise MissingFile(path) from error
    except PermissionError as error:
        raise FileError(path, "permission denied") from error
    except Exception as error:  # zipfile, zlib, numpy and safetensors raise many types for damage
        number = _system_error(error)
        if number == errno.ENOMEM or memory_reason(error):
            raise MemoryError(f"not enough to read {path}") from error
        if number:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise DamagedFile(path, f"{type(error).__name__}: {error}") from error


def _system_error(error: Exception) -> int | None:
    """The errno of the operating system error that kept a file from being read, or None if there was none."""
    number = getattr(error, "errno", None)
    if number is None:  # torch and safetensors only mention it in their message
        found = re.search(r"(?:\(os error |unable to (?:open|mmap) .*\()(\d+)\)$", str(error))
        number = int(found[1]) if found else None
    # Reading a folder, and seeking to a negative offset, which a damaged file may ask for.
    return None if number in (errno.EISDIR, errno.EINVAL) else number
