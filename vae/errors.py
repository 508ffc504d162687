"""Errors that end a stage early, each with its exit status, and what messages must not show."""

import re
from pathlib import Path


class InputError(Exception):
    """A setting or a file is wrong; exit status 2."""


class SettingError(InputError):
    """A setting does not fit the data or the machine; `key` is its section and name."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key


class FileError(InputError):
    """A file is not what it should be; `path` names it."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class MissingFile(FileError):
    """A file is not there."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "not found")


class DamagedFile(FileError):
    """A file cannot be parsed, or fails its checksum."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(path, f"damaged ({reason})")


class UnfitFile(FileError):
    """A file is intact, but this code cannot use it."""


class WorkError(Exception):
    """Work failed, such as a download or a training run; exit status 1."""


class LostRank(WorkError):
    """Another process of the same run ended, hangs or cannot be reached."""


class Interrupted(BaseException):
    """A signal asked to stop; exit status 128 plus the signal's number.

    Not an Exception, like KeyboardInterrupt, so that it is not mistaken for a failure of what it interrupts.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.status = 128 + signal


def memory_reason(error: BaseException) -> str | None:
    """The reason in one line if an error means out of memory, else None; torch has no such class for the CPU."""
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return (str(error).splitlines() or ["out of memory"])[0]
    found = re.search(r"DefaultCPUAllocator: (.*)|(Storage size calculation overflowed)|(bad_?alloc)", str(error))
    if isinstance(error, RuntimeError) and found:
        return next(filter(None, found.groups())).strip()
    return None


def redact(text: str) -> str:
    """Hide the user names, passwords and query values of all URLs in a text, erring on the side of hiding more."""
    # Passwords may contain the characters that end other parts of a URL. With a question mark before the last @, the
    # text after it may be the rest of a query's value.
    text = re.sub(r"://(.*)@([^\s'\"]*)", lambda url: "://***" if "?" in url[1] else f"://***@{url[2]}", text)
    text = re.sub(r"(://[^\s'\"?]*\?)[^\s'\"]+", r"\1***", text)
    return re.sub(r"([?&][^\s'\"=&?]*=)[^\s'\"&]*", r"\1***", text)


def printable(text: str) -> str:
    """Untrusted text as one line without control characters, at most 200 characters long."""
    line = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return line if len(line) <= 200 else f"{line[:197]}..."
