"""Print a run's metrics as a table that fits a terminal: `python -m tools.show [FOLDER]`."""

import argparse
import sys
from pathlib import Path

from tools.record import Metrics, compare, read_metrics, read_record, verdict
from tools.tables import table
from vae.errors import InputError
from vae.evaluation.measures import BESIDE, MEASURES, REAL, RELAXED, STDERR

COLUMNS = {
    "metric": "{metric}",
    "value": "{value:.6g}",
    "record": "{record:.6g}",
    "std. error": "{error:.2g}",
    "real images": "{real:.4g}",
    "unit": "{unit}",
    "what": "{meaning}",
}


def metrics_table(folder: Path) -> str:
    """A Markdown table of the metrics in a folder's metrics/*.json, in Git together with the committed values.

    Raises:
        InputError: there are none yet.
    """
    return layout(read_metrics(folder), read_record(folder))


def layout(values: Metrics, record: Metrics | None) -> str:
    """The table of metrics, the known ones first, and of their record, if there is one."""
    present = {key.removeprefix(RELAXED): key for key in values if not key.endswith(BESIDE)}
    rows = [
        {
            "metric": present[name],
            "value": values[present[name]],
            "record": record and record.get(present[name]),
            "error": values.get(f"{present[name]}{STDERR}"),
            "real": values.get(f"{present[name]}{REAL}"),
            **({"unit": MEASURES[name].unit, "meaning": MEASURES[name].meaning} if name in MEASURES else {}),
        }
        for name in sorted(present, key=[*MEASURES, *present].index)
    ]
    return table({name: form for name, form in COLUMNS.items() if record or name != "record"}, rows)


def main() -> None:
    """Print the table of the folder that the command line names, and whether its run agrees with the record."""
    parser = argparse.ArgumentParser(prog="python -m tools.show", description=__doc__.split(":")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the project's folder (this one)")
    folder = parser.parse_args().folder
    try:
        print(metrics_table(folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        print(f"\n{verdict(compare(folder))}")
    except InputError as reason:
        print(f"\nNot compared with the record: {reason}.")


if __name__ == "__main__":
    main()
