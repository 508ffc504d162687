"""The record, i.e. the metrics committed in Git, and the tolerances for comparing a run with it."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vae.errors import InputError
from vae.evaluation.measures import BESIDE, RELAXED
from vae.files import read_numbers
from vae.settings import Train, parse_yaml, read_yaml

TOLERANCES = Path(__file__).with_name("tolerances.yaml")
MODEL, REPORT = Path("data/model.safetensors"), Path("plots/report.html")

Metrics = dict[str, float]


class Deviation(NamedTuple):
    """A metric of a run and the committed one; None for a missing value."""

    metric: str
    value: float | None
    record: float | None
    tolerance: float | None

    @property
    def difference(self) -> float | None:
        """How far the run is above the record."""
        return None if self.value is None or self.record is None else self.value - self.record

    @property
    def agrees(self) -> bool:
        """Whether the run is within the tolerance; a metric without one only has to exist."""
        if self.difference is None:
            return False
        # Both values are rounded to four digits, and their difference in binary is not.
        return self.tolerance is None or round(abs(self.difference), 6) <= self.tolerance


def require_finished(folder: Path) -> None:
    """Make sure that the folder's report is there and about the folder's model.

    Raises:
        InputError: it is not, so that metrics and pictures may be missing or belong to different runs.
    """
    model, report = folder / MODEL, folder / REPORT
    there = model.exists() and report.exists()
    if not (there and hashlib.sha256(model.read_bytes()).hexdigest() in report.read_text("utf-8")):
        raise InputError(f"{report}: no finished run; run `make repro`")


def read_metrics(folder: Path) -> Metrics:
    """The metrics in a folder's metrics/*.json.

    Raises:
        InputError: there are none yet, or a file is damaged.
    """
    paths = sorted((folder / "metrics").glob("*.json"))
    if not paths:
        raise InputError(f"{folder / 'metrics'}: no metrics; run `dvc repro` to create them")
    return {key: value for path in paths for key, value in read_numbers(path).items()}


def read_record(folder: Path) -> Metrics | None:
    """The metrics as committed in HEAD, or None outside Git and where none are."""
    names = _git(folder, "ls-tree", "--name-only", "HEAD", "metrics/") or ""
    texts = [_git(folder, "show", f"HEAD:./{name}") for name in names.splitlines() if name.endswith(".json")]
    return {key: value for text in texts for key, value in json.loads(text).items()} or None


def compare(folder: Path) -> list[Deviation]:
    """Each metric of a folder's finished run, compared with the record.

    Raises:
        InputError: there is no run or no record, or the run has other settings than those committed.
    """
    require_finished(folder)
    record = read_record(folder)
    if record is None:
        raise InputError(f"{folder / 'metrics'}: no record, as no metrics are committed to Git here")
    committed = parse_yaml(_git(folder, "show", "HEAD:./params.yaml") or "{}", "HEAD:params.yaml")
    if changes := _changes(committed, read_yaml(folder / "params.yaml")):
        raise InputError(f"params.yaml: settings differ from the record's: {', '.join(changes)}")
    return deviations(read_metrics(folder), record)


def deviations(run: Mapping[str, float], record: Mapping[str, float]) -> list[Deviation]:
    """Each metric of either, in the record's order; standard errors and real-image values are skipped."""
    tolerances = yaml.safe_load(TOLERANCES.read_text())
    return [
        Deviation(key, run.get(key), record.get(key), tolerances.get(key.removeprefix(RELAXED)))
        for key in {**record, **run}
        if not key.endswith(BESIDE)
    ]


def verdict(compared: list[Deviation]) -> str:
    """One line: whether the run agrees with the record, or which metrics do not."""
    apart = [
        f"{row.metric} (missing)" if row.difference is None else f"{row.metric} ({row.difference:+.4g})"
        for row in compared
        if not row.agrees
    ]
    if apart:
        return f"The run differs from the record by more than the tolerance: {', '.join(apart)}."
    return f"The run agrees with the record: each of {len(compared)} metrics is within its tolerance."


def _changes(committed: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    before, now = (
        {f"{section}.{key}": value for section, keys in settings.items() for key, value in keys.items()}
        for settings in (committed, own)
    )
    ignored = {f"train.{key}" for key in Train.WITHOUT_EFFECT}
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in ignored]
    return [f"{key} ({before.get(key, 'none')}, here {now.get(key, 'none')})" for key in keys]


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
