"""The report as one self-contained HTML page: no script, no request, pictures as data URIs."""

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from vae.report.catalogue import BY_CLASS, GROUPS, HEADLINE, Group, Measure, Picture
from vae.report.template import TEMPLATE

RELAXED = "relaxed_"
OTHERS = Group("others", "Further results", "Metrics and pictures that have no section of their own.", {}, {})


class Row(NamedTuple):
    """A metric as the page shows it; `error` and `floor` are empty where there are none."""

    key: str
    measure: Measure
    value: str
    error: str
    floor: str
    relaxed: bool


class Shown(NamedTuple):
    """A picture as the page shows it, its size in pixels."""

    name: str
    picture: Picture
    width: int
    height: int
    uri: str


class Section(NamedTuple):
    """A group with what there is of it."""

    group: Group
    rows: list[Row]
    pictures: list[Shown]

    @property
    def has_errors(self) -> bool:
        """Whether a standard error stands beside any of its metrics."""
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
        metrics: numbers by key. `X_stderr` and `X_floor` stand beside `X`; keys that no group knows get their own.
        by_class: the table of errors by class, a row a class, cells empty where there is no number.
        pictures: PNG files by name.
        settings: values by section and key.
        provenance: tables of names and values, by heading.

    Raises:
        ValueError: a picture is no PNG.
    """
    sections = _sections(metrics, pictures)
    rows = {row.key.removeprefix(RELAXED): row for section in sections for row in section.rows}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE).render(
        title=title,
        caption=caption,
        headline=[rows[key] for key in HEADLINE if key in rows],
        sections=sections,
        relaxed=any(row.relaxed for row in rows.values()),
        by_class=_table(by_class),
        settings={name: {key: _setting(value) for key, value in keys.items()} for name, keys in settings.items()},
        provenance=provenance,
    )


def png_size(png: bytes) -> tuple[int, int]:
    """The width and the height of a PNG file in pixels; raises ValueError when it is none."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR" or len(png) < 24:
        raise ValueError("no PNG")
    return struct.unpack(">II", png[16:24])


def _sections(metrics: Mapping[str, Any], pictures: Mapping[str, bytes]) -> list[Section]:
    measures = {key: measure for group in GROUPS for key, measure in group.measures.items()}
    known = {name for group in GROUPS for name in group.pictures}
    # What stands beside another metric has no row of its own.
    beside = {f"{key}{suffix}" for key in metrics for suffix in ("_stderr", "_floor")}
    present = {key.removeprefix(RELAXED): key for key in metrics if key not in beside}
    others = OTHERS._replace(
        measures={key: Measure(present[key], "", "", "") for key in sorted(present.keys() - measures.keys())},
        pictures={name: Picture(name.replace("_", " "), name.replace("_", " "), "") for name in sorted(pictures)},
    )
    found = [
        Section(
            group,
            [_row(present[key], measure, metrics) for key, measure in group.measures.items() if key in present],
            [
                _shown(name, picture, pictures[name])
                for name, picture in group.pictures.items()
                if name in pictures and (group.key != OTHERS.key or name not in known)
            ],
        )
        for group in (*GROUPS, others)
    ]
    return [section for section in found if section.rows or section.pictures]


def _row(key: str, measure: Measure, metrics: Mapping[str, Any]) -> Row:
    error, floor = (
        _number(metrics[f"{key}{suffix}"], measure.form) if f"{key}{suffix}" in metrics else ""
        for suffix in ("_stderr", "_floor")
    )
    return Row(key, measure, _number(metrics[key], measure.form), error, floor, key.startswith(RELAXED))


def _number(value: Any, form: str) -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}") if form else str(value)


def _table(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """A head and a line for each class, without the columns that are empty throughout."""
    columns = [column for column in BY_CLASS if any(row.get(column) for row in rows)]
    head = [BY_CLASS[column][0] for column in columns]
    return [head, *([_cell(row[column], BY_CLASS[column][1]) for column in columns] for row in rows)]


def _cell(value: str, form: str) -> str:
    return _number(float(value), form) if value and form else value


def _setting(value: Any) -> str:
    """A value as params.yaml has it, a list on one line."""
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _shown(name: str, picture: Picture, png: bytes) -> Shown:
    return Shown(name, picture, *png_size(png), f"data:image/png;base64,{base64.b64encode(png).decode()}")
