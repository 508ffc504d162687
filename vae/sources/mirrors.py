"""Fetching a data set's files from mirrors.

Every file, whether downloaded or copied, is verified against its published checksum.
"""

import hashlib
import logging
import os
import queue
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import requests
import tenacity
import urllib3
from tqdm import tqdm

from vae.errors import WorkError, printable, redact
from vae.files import replacing
from vae.settings import DatasetName
from vae.sources.datasets import DIGITS_FILE, published, write_digits

ATTEMPTS = 3  # per file and mirror
TIMEOUT = (5.0, 30.0)  # seconds: to connect, between two chunks of the response
GRACE, SLOWEST = 30.0, 16 * 1024  # seconds before the minimum speed (bytes per second) applies
LONGEST_WAIT = 60.0  # longest wait in seconds that a mirror may ask for
LARGEST = {"labels": 1024**2, "images": 64 * 1024**2}  # bytes, more than twice the size of any data set here
PIECE = 64 * 1024  # bytes per read

_log = logging.getLogger(__name__)


def fetch(name: DatasetName, mirrors: Sequence[str], folder: str | Path) -> list[str]:
    """Fetch the raw files of a data set into `folder`, and return their names.

    A file that is already there with the right checksum is kept. Mirrors are URLs or folders; those that the data set
    names itself come last. `digits` needs none.

    Raises:
        WorkError: no mirror has a file; the message gives each mirror's reason.
    """
    folder = Path(folder)
    if name == "digits":
        write_digits(folder / DIGITS_FILE)
        return [DIGITS_FILE]
    known = published(name)
    places = [*mirrors, *known.mirrors]
    failures: dict[str, str] = {}
    # Labels first: they are small, and show whether a mirror holds this data set.
    for file, md5 in sorted(known.resources, key=lambda resource: "labels" not in resource[0]):
        if not _is_right(folder / file, md5):
            (folder / file).unlink(missing_ok=True)
            _fetch_file(folder / file, md5, places, failures)
    return [file for file, _ in known.resources]


class _MirrorError(Exception):
    """A mirror cannot provide a file, and retrying would not help."""


class _PassingError(_MirrorError):
    """A mirror did not provide a file, but may on a retry after `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


def _fetch_file(path: Path, md5: str, mirrors: Sequence[str], failures: dict[str, str]) -> None:
    # `failures` outlives the file, so that a mirror that failed once is never asked again.
    for mirror in mirrors:
        if (key := _place(mirror, "")) in failures:
            continue
        try:
            return _copy(mirror, md5, path)
        except _MirrorError as error:
            failures[key] = f"  {_shown(mirror, path.name, error)}"
    reasons = "\n".join(failures.values())
    raise WorkError(f"{path.name}: not available from any mirror\n{reasons}")


def _shown(mirror: str, name: str, error: BaseException) -> str:
    """A mirror and its reason, without secrets or unprintable characters."""
    reason = str(error)
    # The error for an unparsable address quotes parts of it, which cannot be told from other words.
    for secret in re.findall(r"://(.*)@", mirror) + re.findall(r"\?(.*)", mirror) if _is_url(mirror) else []:
        for piece in filter(None, re.split(r"[:/?&=@]", secret)):
            reason = reason.replace(quote(piece), "***").replace(piece, "***")
    return f"{printable(redact(_place(mirror, name)))}: {printable(redact(reason))}"


def _place(mirror: str, name: str) -> str:
    """The location of a file on a mirror; a URL's query string stays at the end."""
    folder, mark, query = mirror.partition("?") if _is_url(mirror) else (mirror, "", "")
    return f"{folder.removesuffix('/')}/{name}{mark}{query}"


def _is_url(mirror: str) -> bool:
    return "://" in mirror and not mirror.startswith("file://")


def _announce(state: tenacity.RetryCallState) -> None:
    mirror, _, path = state.args
    attempt = _shown(mirror, path.name, state.outcome.exception())
    _log.warning("%s; trying again in %.0f s", attempt, state.next_action.sleep)


_backoff = tenacity.wait_exponential_jitter(initial=1, max=30, jitter=1)


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(_PassingError),
    stop=tenacity.stop_after_attempt(ATTEMPTS),
    wait=lambda state: max(_backoff(state), state.outcome.exception().wait),
    before_sleep=_announce,
    reraise=True,
)
def _copy(mirror: str, md5: str, path: Path) -> None:
    place, most = _place(mirror, path.name), LARGEST["labels" if "labels" in path.name else "images"]
    opened = _open_url(place) if _is_url(place) else _open_path(place)
    with opened as (size, pieces), replacing(path) as file:
        if size is not None and size > most:
            raise _MirrorError(f"{size} bytes, expected at most {most}")
        with tqdm.wrapattr(file, "write", total=size, desc=path.name, disable=None) as target:
            received = 0
            for piece in pieces:
                received += len(piece)
                if received > most:
                    raise _MirrorError(f"more than {most} bytes, too large for this data set")
                target.write(piece)
        file.flush()
        if not _is_right(Path(file.name), md5):
            raise _MirrorError(f"wrong checksum, expected the MD5 sum {md5}")


_Opened = tuple[int | None, Iterator[bytes]]  # size, where it is known, and content


@contextmanager
def _open_url(url: str) -> Iterator[_Opened]:
    # In a thread, as nothing else bounds the time of name lookups or of headers and bodies sent byte by byte.
    answers: queue.Queue[Any] = queue.Queue(maxsize=4)
    abandoned = threading.Event()
    threading.Thread(target=_request, args=(url, answers, abandoned), daemon=True).start()
    start, received = time.monotonic(), 0

    def answer() -> Any:
        nonlocal received
        try:
            found = answers.get(timeout=max(0, start + GRACE + received / SLOWEST - time.monotonic()))
        except queue.Empty:
            raise _MirrorError(f"too slow, {received} bytes in {time.monotonic() - start:.0f} s") from None
        if isinstance(found, Exception):
            raise found
        received += len(found) if isinstance(found, bytes) else 0
        return found

    try:
        yield answer(), iter(answer, b"")
    finally:
        abandoned.set()
        with suppress(queue.Empty):
            while True:  # room for the one chunk that the thread may be waiting to hand over
                answers.get_nowait()


def _request(url: str, answers: "queue.Queue[Any]", abandoned: threading.Event) -> None:
    """Put the response's size, its chunks and finally an empty chunk into the queue, or the error."""
    try:
        # The raw stream, so that a server that declares .gz files as gzip-encoded does not get them unpacked.
        with requests.get(url, stream=True, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}) as response:
            if response.status_code != 200:
                raise _refusal(response)
            if response.headers.get("Content-Type", "").lower().startswith("text/html"):
                raise _MirrorError("an HTML page instead of the file")
            answers.put(response.raw.length_remaining)
            while not abandoned.is_set():
                piece = response.raw.read(PIECE)
                answers.put(piece)
                if not piece:
                    break
    except _MirrorError as error:
        answers.put(error)
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
        answers.put(_explain(error))


def _refusal(response: requests.Response) -> _MirrorError:
    reason = f"{response.status_code} {response.reason}"
    if response.status_code != 429 and response.status_code < 500:
        return _MirrorError(reason)
    try:
        wait = urllib3.Retry().get_retry_after(response.raw) or 0
    except urllib3.exceptions.InvalidHeader:
        wait = 0
    if wait > LONGEST_WAIT:
        return _MirrorError(f"{reason}; the server asks to wait {wait:.0f} s")
    return _PassingError(reason, wait)


@contextmanager
def _open_path(location: str) -> Iterator[_Opened]:
    try:
        path = url2pathname(urlsplit(location).path) if location.startswith("file://") else location
        # Non-blocking, so that a pipe without a writer does not hang.
        descriptor = os.open(Path(path).expanduser(), os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, RuntimeError, ValueError) as error:
        raise _MirrorError(getattr(error, "strerror", None) or str(error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _MirrorError("not a regular file")
        yield status.st_size, _pieces(descriptor)
    finally:
        os.close(descriptor)


def _pieces(descriptor: int) -> Iterator[bytes]:
    try:
        yield from iter(lambda: os.read(descriptor, PIECE), b"")
    except OSError as error:
        raise _MirrorError(f"cannot be read ({error.strerror})") from error


def _explain(error: Exception) -> _MirrorError:
    cause: BaseException = error
    while cause.__context__ is not None and not isinstance(cause, HTTPException):
        cause = cause.__context__
    # If the host cannot be reached, trying the next mirror is better than a retry.
    lasting = (requests.exceptions.SSLError, requests.exceptions.ProxyError, socket.gaierror, ConnectionRefusedError)
    passing = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)
    again = isinstance(error, passing) and not isinstance(error, lasting) and not isinstance(cause, lasting)
    return (_PassingError if again else _MirrorError)(str(cause) or type(cause).__name__)


def _is_right(path: Path, md5: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5
