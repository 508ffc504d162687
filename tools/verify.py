"""Compare a finished run with the record, the committed metrics: `python -m tools.verify [FOLDER]`.

Exit status 0: each metric is within its tolerance (tools/tolerances.yaml); 1: some are not; 2: there is no finished
run with the record's settings, or no record.
"""

import argparse
import sys
from pathlib import Path

from tools.record import compare, verdict
from tools.tables import table
from vae.errors import InputError

COLUMNS = {
    "metric": "{metric}",
    "value": "{value:.6g}",
    "record": "{record:.6g}",
    "difference": "{difference:+.4f}",
    "tolerance": "{tolerance:g}",
    "agrees": "{agrees}",
}


def main() -> None:
    """Print each metric's deviation and the verdict."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__.split(":")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the project's folder (this one)")
    try:
        compared = compare(parser.parse_args().folder)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    rows = [
        {**row._asdict(), "difference": row.difference, "agrees": "yes" if row.agrees else "no"} for row in compared
    ]
    print(table(COLUMNS, rows))
    print(f"\n{verdict(compared)}")
    sys.exit(not all(row.agrees for row in compared))


if __name__ == "__main__":
    main()
