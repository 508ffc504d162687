"""Where images come from: torchvision's data sets over mirrors, and the digits inside scikit-learn.

Every file that crosses a network or comes from another folder is verified by its published checksum.
"""

import gzip
import hashlib
import logging
import math
import os
import re
import shutil
import socket
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import requests
import tenacity
import urllib3
from tqdm import tqdm

from vae.errors import InputError, WorkError
from vae.settings import DatasetName
from vae.storage import read_arrays, replacing, write_arrays

ATTEMPTS = 3  # at one file of one mirror
TIMEOUT = (5.0, 30.0)  # seconds: to connect, between two pieces of the answer

_TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_DIGITS_FILE = "digits.npz"
_DIGITS_SPLITS = {"train": slice(0, 1437), "test": slice(1437, 1797)}

_log = logging.getLogger(__name__)


def fetch(name: DatasetName, mirrors: Sequence[str], folder: str | Path) -> list[str]:
    """Make `folder` hold the raw files of a data set, and return their names.

    A file that is already there with the right checksum is kept. Mirrors are URLs or folders, tried in
    this order: the environment variable MNIST_MIRROR, `mirrors`, the data set's own. `digits` needs none.

    Raises:
        WorkError: no mirror has a file; the message gives each mirror's reason.
    """
    folder = Path(folder)
    if name == "digits":
        _write_digits(folder / _DIGITS_FILE)
        return [_DIGITS_FILE]
    published = _published(name)
    candidates = [os.environ.get("MNIST_MIRROR", ""), *mirrors, *published.mirrors]
    urls = [f"{url.removesuffix('/')}/" for url in candidates if url]
    failures: dict[str, str] = {}
    # Labels first: they are small, and show whether a mirror is one of this data set.
    for file, md5 in sorted(published.resources, key=lambda resource: "labels" not in resource[0]):
        if not _is_right(folder / file, md5):
            (folder / file).unlink(missing_ok=True)
            _fetch_file(folder / file, md5, urls, failures)
    return [file for file, _ in published.resources]


def read(name: DatasetName, folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the raw files of a data set: its images and labels under the keys `train` and `test`.

    Returns:
        For each key, images of shape `(n, height, width)`, uint8 from 0 to 255, and labels of shape `(n,)`, uint8.

    Raises:
        InputError: a file is missing or damaged.
    """
    if name == "digits":
        return _read_digits(Path(folder) / _DIGITS_FILE)
    return {"train": _read_split(Path(folder), "train"), "test": _read_split(Path(folder), "t10k")}


def class_names(name: DatasetName) -> list[str]:
    """Return the names of a data set's ten classes, in the order of its labels."""
    if name in ("mnist", "digits"):
        return [str(digit) for digit in range(10)]
    return list(_published(name).classes)


def _published(name: DatasetName) -> Any:
    # Imported here as it takes a second or two, which neither the digits nor `read` should pay.
    from torchvision import datasets

    return getattr(datasets, _TORCHVISION_CLASSES[name])


class _MirrorError(Exception):
    """A mirror cannot give a file, and asking again would change nothing."""


class _PassingError(_MirrorError):
    """A mirror did not give a file, but may if asked again."""


def _fetch_file(path: Path, md5: str, mirrors: Sequence[str], failures: dict[str, str]) -> None:
    # `failures` outlives the file, so that a mirror that failed once is never asked again.
    for mirror in mirrors:
        if mirror in failures:
            continue
        url = mirror + path.name
        try:
            return _copy(url, md5, path)
        except _MirrorError as error:
            failures[mirror] = _without_password(f"  {url}: {error}")
    reasons = "\n".join(failures.values())
    raise WorkError(
        f"{path.name}: no mirror gives it\n{reasons}\n"
        "set MNIST_MIRROR to a URL or a folder that holds the data set's four files (*-ubyte.gz), "
        "or run `make demo`, which needs no download"
    )


def _announce(state: tenacity.RetryCallState) -> None:
    attempt = f"{state.args[0]}: {state.outcome.exception()}; trying again in {state.next_action.sleep:.0f} s"
    _log.warning("%s", _without_password(attempt))


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(_PassingError),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    wait=tenacity.wait_exponential_jitter(initial=1, max=30, jitter=1),
    before_sleep=_announce,
    reraise=True,
)
def _copy(url: str, md5: str, path: Path) -> None:
    opened = _open_url(url) if "://" in url and not url.startswith("file://") else _open_path(url)
    with opened as (source, size), replacing(path) as file:
        with tqdm.wrapattr(file, "write", total=size, desc=path.name, disable=None) as target:
            shutil.copyfileobj(source, target)
        file.flush()
        if not _is_right(Path(file.name), md5):
            raise _MirrorError(f"wrong checksum, not the file with the md5 sum {md5}")


@contextmanager
def _open_url(url: str) -> Iterator[tuple[BinaryIO, int | None]]:
    try:
        # The raw stream, so that a server that declares .gz files as gzip-encoded does not get them unpacked.
        with requests.get(url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as response:
            if response.status_code != 200:
                again = response.status_code == 429 or response.status_code >= 500
                raise (_PassingError if again else _MirrorError)(f"{response.status_code} {response.reason}")
            if response.headers.get("Content-Type", "").lower().startswith("text/html"):
                raise _MirrorError("an HTML page instead of the file")
            yield response.raw, response.raw.length_remaining
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _explain(error) from error


@contextmanager
def _open_path(location: str) -> Iterator[tuple[BinaryIO, int]]:
    try:
        path = url2pathname(urlsplit(location).path) if location.startswith("file://") else location
        file = Path(path).expanduser().open("rb")
    except (OSError, RuntimeError, ValueError) as error:
        raise _MirrorError(getattr(error, "strerror", None) or str(error)) from error
    with file:
        yield file, os.fstat(file.fileno()).st_size


def _explain(error: Exception) -> _MirrorError:
    cause: BaseException = error
    while cause.__context__ is not None and not isinstance(cause, HTTPException):
        cause = cause.__context__
    # Where there is no way to the host, the next mirror is the better second attempt.
    lasting = (requests.exceptions.SSLError, requests.exceptions.ProxyError, socket.gaierror, ConnectionRefusedError)
    passing = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)
    again = isinstance(error, passing) and not isinstance(error, lasting) and not isinstance(cause, lasting)
    return (_PassingError if again else _MirrorError)(str(cause) or type(cause).__name__)


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@]*@", "://***@", text)


def _is_right(path: Path, md5: str) -> bool:
    return path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5


def _write_digits(path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    write_arrays(path, {"images": digits.images.astype(np.uint8), "labels": digits.target.astype(np.uint8)})


def _read_digits(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    arrays = read_arrays(path)
    if {key: array.shape for key, array in arrays.items()} != {"images": (1797, 8, 8), "labels": (1797,)}:
        raise _damaged(path, "not the 1797 digits of scikit-learn")
    images, labels = np.rint(arrays["images"] * (255 / 16)).astype(np.uint8), arrays["labels"]
    return {key: (images[part], labels[part]) for key, part in _DIGITS_SPLITS.items()}


def _read_split(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    path = folder / f"{prefix}-labels-idx1-ubyte.gz"
    labels = _read_idx(path, dimensions=1)
    if len(labels) != len(images):
        raise _damaged(path, f"{len(labels)} labels for {len(images)} images")
    return images, labels


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; run `dvc repro`, which makes it") from error
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    # IDX: two zero bytes, the type (8: unsigned byte), the number of dimensions, their sizes, the values.
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        raise _damaged(path, f"no IDX file of unsigned bytes in {dimensions} dimensions")
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).tolist()
    if math.prod(shape) != len(content) - start:
        raise _damaged(path, f"{len(content) - start} values where the header says {shape}")
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: damaged ({reason}); delete it and run `dvc repro`")
