"""Print a run's metrics as a table that fits a terminal: `python -m experiments.show [FOLDER]`."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.report import table
from vae.errors import InputError
from vae.report.catalogue import GROUPS

COLUMNS = {
    "metric": "{metric}",
    "value": "{value:.6g}",
    "std. error": "{error:.2g}",
    "real images": "{floor:.4g}",
    "unit": "{unit}",
    "what": "{meaning}",
}
BESIDE = ("_stderr", "_floor")  # endings of the keys that stand beside another key's value


def metrics_table(folder: Path) -> str:
    """A Markdown table of the metrics in a folder's metrics/*.json, with what they are for real images where known.

    Raises:
        InputError: there are none yet.
    """
    paths = sorted((folder / "metrics").glob("*.json"))
    if not paths:
        raise InputError(f"{folder / 'metrics'}: no metrics; run `dvc repro`, which makes them")
    values = {key: value for path in paths for key, value in json.loads(path.read_text()).items()}
    known = {key: measure for group in GROUPS for key, measure in group.measures.items()}
    rows = [
        {
            "metric": key,
            "value": values[key],
            "error": values.get(f"{key}_stderr"),
            "floor": values.get(f"{key}_floor"),
            **(known[key]._asdict() if key in known else {}),
        }
        for key in [*(key for key in known if key in values), *(key for key in values if key not in known)]
        if not key.endswith(BESIDE)
    ]
    return table(COLUMNS, rows)


def main() -> None:
    """Print the table of the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m experiments.show", description=__doc__.split(":")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the project's folder (this one)")
    try:
        print(metrics_table(parser.parse_args().folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
