"""The space of a search: a YAML file with values and ranges for keys of params.yaml."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.run import Changes, changed
from vae.errors import InputError
from vae.settings import parse_settings, read_yaml

SECTIONS = ("model", "train")  # what the trained model depends on beside the data


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Range(_Part):
    low: int | float
    high: int | float
    step: int | float | None = None
    log: bool = False


class _Prune(_Part):
    after_trials: int = Field(default=5, ge=1)
    after_epochs: int = Field(default=5, ge=0)


class _File(_Part):
    settings: dict[str, dict[str, Any]] = {}
    space: dict[str, dict[str, _Range | list[Any]]]
    prune: _Prune = _Prune()


class Space(NamedTuple):
    """What a search tries: the settings that all trials share, and how `SECTION.KEY` is drawn for each."""

    settings: Changes
    distributions: dict[str, BaseDistribution]
    pruner: optuna.pruners.BasePruner


def read_space(path: str | Path) -> Space:
    """Read a space; each of its values and bounds is held against params.yaml on its own.

    Raises:
        InputError: the file is not a space, or a value is not allowed in params.yaml; the message names the key.
    """
    try:
        file = _File.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc'])) or 'contents'}: {first['msg']}") from error
    keys = {f"{section}.{key}": values for section, keys in file.space.items() for key, values in keys.items()}
    if not keys:
        raise InputError(f"{path}: space: empty, allowed: keys of {' and '.join(SECTIONS)}")
    if wrong := [key for key in keys if key.split(".")[0] not in SECTIONS]:
        raise InputError(f"{path}: space.{wrong[0]}: other data or tests, allowed: keys of {' and '.join(SECTIONS)}")
    settings = parse_settings(changed(read_yaml("params.yaml"), file.settings), str(path))
    if not settings.prepare.validation_size:
        raise InputError(f"{path}: trials are judged on validation images, and prepare.validation_size is 0")
    distributions = {key: _distribution(values, f"{path}: space.{key}") for key, values in keys.items()}
    for key, values in keys.items():
        _check(key, values, file.settings, str(path))
    pruner = optuna.pruners.MedianPruner(file.prune.after_trials, file.prune.after_epochs)
    return Space(file.settings, distributions, pruner)


def assignments(settings: Changes, drawn: Mapping[str, Any]) -> list[str]:
    """A trial's settings as `SECTION.KEY=VALUE`: those that all share, then those that were drawn for it."""
    shared = {
        f"{section}.{key}": json.dumps(value) for section, keys in settings.items() for key, value in keys.items()
    }
    # Of lists of values Optuna draws the JSON.
    own = {key: value if isinstance(value, str) else json.dumps(value) for key, value in drawn.items()}
    return [f"{key}={value}" for key, value in (shared | own).items()]


def _distribution(values: _Range | Sequence[Any], source: str) -> BaseDistribution:
    if not isinstance(values, _Range):
        if not values:
            raise InputError(f"{source}: an empty list, allowed: one or more values")
        return CategoricalDistribution([json.dumps(value) for value in values])
    whole = all(isinstance(bound, int) for bound in (values.low, values.high, values.step or 0))
    kind = IntDistribution if whole else FloatDistribution
    step = {} if values.step is None else {"step": values.step}
    try:
        return kind(values.low, values.high, log=values.log, **step)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _check(key: str, values: _Range | Sequence[Any], settings: Changes, source: str) -> None:
    section, name = key.split(".", 1)
    for value in _extremes(values):
        changes = changed(settings, {section: {name: value}})
        parse_settings(changed(read_yaml("params.yaml"), changes), f"{source}: space")


def _extremes(values: _Range | Sequence[Any]) -> Iterator[Any]:
    yield from (values.low, values.high) if isinstance(values, _Range) else values
