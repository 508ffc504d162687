"""Runs at any revision: a commit, branch or tag, a DVC experiment by its name, or `workspace`.

Files come from Git and from DVC's cache or remote; the workspace stays as it is.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import SCMError
from dvc.utils.serialize import load_yaml

from vae.errors import InputError
from vae.files import read_numbers

WORKSPACE = "workspace"

T = TypeVar("T")


class Run(NamedTuple):
    """A revision and its files; `commit` is empty for the workspace."""

    name: str
    commit: str
    files: DVCFileSystem


def open_run(name: str) -> Run:
    """Find a run by its revision.

    Raises:
        InputError: there is no such revision, or no DVC project in this folder.
    """
    revision = None if name == WORKSPACE else name
    try:
        files = DVCFileSystem(rev=revision)
        # DVC looks the revision up when it is first asked for.
        return Run(name, files.repo.get_rev() if revision else "", files)
    except SCMError as error:
        raise InputError(
            f"{name}: {error}; allowed: a Git revision, the name of an experiment that has run (`dvc exp list` names "
            f"them, `dvc exp pull` gets one from a remote), or {WORKSPACE}"
        ) from error
    except DvcException as error:
        raise InputError(f"{name}: {error}") from error


def read(run: Run, path: str, reader: Callable[[Path], T]) -> T:
    """Apply `reader` to a copy of one of the run's files.

    Raises:
        InputError: the run has no such file, it is neither in the cache nor in a remote, or the reader refuses it.
    """
    with TemporaryDirectory() as folder:
        copy = Path(folder) / Path(path).name
        try:
            copy.write_bytes(_contents(run, path))
            return reader(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), f"{run.name}: {path}")) from error


def _contents(run: Run, path: str) -> bytes:
    try:
        if run.files.exists(path):
            with run.files.open(path, "rb") as file:
                return file.read()
    except (OSError, DvcException) as error:
        raise InputError(f"{run.name}: {path} is neither in the cache nor in a remote; {_remedy(run)}") from error
    raise InputError(f"{run.name}: {path} does not exist at this revision; {_remedy(run)}")


def _remedy(run: Run) -> str:
    if not run.commit:
        return "run `dvc pull` where a remote has it, else `dvc repro`"
    return (
        "run `dvc fetch --all-commits` where a remote has it, else `dvc repro` after "
        f"`git switch --detach {run.name}` or, for an experiment, `dvc exp apply {run.name}`"
    )


def read_metrics(run: Run) -> dict[str, float]:
    """The flat metrics of all stages; raises InputError when there are none."""
    try:
        paths = sorted(run.files.glob("metrics/*.json"))
    except (OSError, DvcException):
        paths = []
    if not paths:
        raise InputError(f"{run.name}: no metrics/*.json at this revision; {_remedy(run)}")
    found: dict[str, float] = {}
    for path in paths:
        found |= read(run, path, read_numbers)
    return found


def read_settings(run: Run) -> dict[str, Any]:
    """The values in params.yaml by `section.key`, as DVC reads them; the keys of other versions are kept too."""
    sections = read(run, "params.yaml", read_yaml)
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a params.yaml as DVC reads it; raises InputError where it is missing or no YAML."""
    try:
        sections = load_yaml(str(path))
    except (OSError, DvcException) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return {section: values for section, values in sections.items() if isinstance(values, dict)}
