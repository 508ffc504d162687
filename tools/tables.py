"""Tables in Markdown that are also readable in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any


def table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows, where `columns` maps a heading to a format of a row's values such as `{seconds:.2f}`.

    A cell is empty if the row has no such value, or None. Columns with a number's format are right-aligned.
    """
    lines = [list(columns), *([_cell(form, row) for form in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [">" if ":" in form else "<" for form in columns.values()]
    rule = [f"{'':-<{width - 1}}{':' if side == '>' else '-'}" for width, side in zip(widths, sides, strict=True)]
    lines.insert(1, rule)
    return "\n".join(
        f"| {' | '.join(f'{c:{s}{w}}' for c, s, w in zip(line, sides, widths, strict=True))} |" for line in lines
    )


def _cell(form: str, row: Mapping[str, Any]) -> str:
    try:
        return form.format_map(row)
    except (KeyError, TypeError):  # None takes no number's format
        return ""
