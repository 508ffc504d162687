"""The report as one self-contained HTML page: no script, no request, pictures as data URIs."""

import base64
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vae.evaluation.measures import BESIDE, MEASURES, RELAXED, Measure
from vae.pictures import PICTURES
from vae.report.sections import BY_CLASS, HEADLINE, SECTIONS, Section


class Row(NamedTuple):
    """A metric as the page shows it; `error` and `real` are empty if there are none."""

    key: str
    measure: Measure
    value: str
    error: str
    real: str
    relaxed: bool


class Shown(NamedTuple):
    """A picture as the page shows it, its size in pixels."""

    title: str
    shows: str
    look: str
    width: int
    height: int
    uri: str


class Part(NamedTuple):
    """A section with the metrics and the pictures that a run has for it."""

    key: str
    section: Section
    rows: list[Row]
    pictures: list[Shown]

    @property
    def has_errors(self) -> bool:
        """Whether any of its metrics has a standard error."""
        return any(row.error for row in self.rows)


def render(
    title: str,
    caption: str,
    metrics: Mapping[str, Any],
    by_class: Sequence[Mapping[str, str]],
    pictures: Mapping[str, bytes],
    settings: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Mapping[str, str]],
) -> str:
    """Lay out the page; equal arguments give equal bytes.

    Args:
        title: the page's heading.
        caption: the line under it.
        metrics: numbers by key. `X_stderr` and `X_real` are shown with `X`; keys without a `Measure` get their own
            section.
        by_class: the table of errors by class, one row per class, with empty cells for missing numbers.
        pictures: PNG files by name; those without a `Picture` get their own section.
        settings: values by section and key.
        provenance: tables of names and values, by heading.

    Raises:
        ValueError: a picture is not a PNG.
    """
    rows, shown = _rows(metrics), _pictures(pictures)
    parts = [Part(key, section, rows[key], shown[key]) for key, section in SECTIONS.items()]
    found = {row.key.removeprefix(RELAXED): row for part in parts for row in part.rows}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=title,
        caption=caption,
        headline=[found[key] for key in HEADLINE if key in found],
        parts=[part for part in parts if part.rows or part.pictures],
        relaxed=any(row.relaxed for row in found.values()),
        by_class=_table(by_class),
        settings={name: {key: _setting(value) for key, value in keys.items()} for name, keys in settings.items()},
        provenance=provenance,
    )


def png_size(png: bytes) -> tuple[int, int]:
    """The width and the height of a PNG file in pixels; raises ValueError if it is not one."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR" or len(png) < 24:
        raise ValueError("not a PNG")
    return struct.unpack(">II", png[16:24])


def _rows(metrics: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The metrics by section, those that have a `Measure` in its order."""
    # Values shown with another metric have no row of their own.
    beside = {f"{key}{suffix}" for key in metrics for suffix in BESIDE}
    present = {key.removeprefix(RELAXED): key for key in metrics if key not in beside}
    others = {key: Measure(present[key], "", "", "", "others") for key in sorted(present.keys() - MEASURES.keys())}
    rows = {section: [] for section in SECTIONS}
    for key, measure in (MEASURES | others).items():
        if key in present:
            rows[measure.group].append(_row(present[key], measure, metrics))
    return rows


def _row(key: str, measure: Measure, metrics: Mapping[str, Any]) -> Row:
    error, real = (
        _number(metrics[f"{key}{suffix}"], measure.form) if f"{key}{suffix}" in metrics else "" for suffix in BESIDE
    )
    return Row(key, measure, _number(metrics[key], measure.form), error, real, key.startswith(RELAXED))


def _number(value: Any, form: str) -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}") if form else str(value)


def _pictures(pictures: Mapping[str, bytes]) -> dict[str, list[Shown]]:
    """The pictures by section, those that have a `Picture` in its order."""
    shown = {section: [] for section in SECTIONS}
    for known in PICTURES:
        if known.name in pictures:
            shown[known.group].append(_shown(known.title, known.shows, known.look, pictures[known.name]))
    for name in sorted(pictures.keys() - {known.name for known in PICTURES}):
        words = name.replace("_", " ")
        shown["others"].append(_shown(words, words, "", pictures[name]))
    return shown


def _shown(title: str, shows: str, look: str, png: bytes) -> Shown:
    return Shown(title, shows, look, *png_size(png), f"data:image/png;base64,{base64.b64encode(png).decode()}")


def _table(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """A header and one line per class, without empty columns."""
    columns = [column for column in BY_CLASS if any(row.get(column) for row in rows)]
    head = [BY_CLASS[column][0] for column in columns]
    return [head, *([_cell(row[column], BY_CLASS[column][1]) for column in columns] for row in rows)]


def _cell(value: str, form: str) -> str:
    return _number(float(value), form) if value and form else value


def _setting(value: Any) -> str:
    """A value as written in params.yaml, lists on one line."""
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)
