"""Train several seeds and report every metric's mean and spread: `python -m tools.seeds N [-S KEY=VALUE ...]`.

The seeds 0 to N - 1 of `train.seed` go into DVC's queue as experiments of their own, which `dvc exp show` lists too;
then the whole queue runs. The table goes to the standard output, DVC's messages to the standard error.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tools.queue import call_dvc
from tools.run import environment
from tools.tables import table
from vae.errors import InputError, WorkError

COLUMNS = {"metric": "{metric}", "mean": "{mean:.4f}", "standard deviation": "{deviation:.4f}", "runs": "{n:d}"}

Metrics = Mapping[str, float]


def queue(seeds: int, assignments: Sequence[str]) -> list[str]:
    """Queue an experiment for each seed; returns the names that DVC gave them, in the order of seeds.

    Raises:
        InputError: an assignment has several values, which would make several experiments per seed.
        WorkError: DVC refuses.
    """
    values = [f"train.seed={','.join(map(str, range(seeds)))}", *assignments]
    options = [option for value in values for option in ("--set-param", value)]
    names = re.findall(r"^Queued experiment '(.+)' for", call_dvc("exp", "run", "--queue", *options), re.MULTILINE)
    if len(names) != seeds:
        call_dvc("queue", "remove", *names)
        raise InputError(
            f"{' '.join(assignments)}: {len(names)} experiments for {seeds} seeds; give each key one value"
        )
    return names


def results(names: Sequence[str]) -> dict[str, Metrics]:
    """The metrics of those of the experiments that succeeded, by name."""
    shown = [found for base in json.loads(call_dvc("exp", "show", "--json")) for found in base["experiments"] or []]
    # An experiment that failed has metrics too: those of the commit that it started from.
    ended = {found["name"]: found["revs"][0]["data"] for found in shown if _succeeded(found)}
    return {name: _flat(ended[name]["metrics"]) for name in names if name in ended}


def summary(runs: Sequence[Metrics]) -> list[dict[str, Any]]:
    """Mean and standard deviation (of the sample; None for a single run) of each metric over the runs that have it."""
    rows = []
    for metric in dict.fromkeys(name for run in runs for name in run):
        values = [run[metric] for run in runs if metric in run]
        deviation = statistics.stdev(values) if len(values) > 1 else None
        rows.append({"metric": metric, "mean": statistics.mean(values), "deviation": deviation, "n": len(values)})
    return rows


def _succeeded(found: Mapping[str, Any]) -> bool:
    executor = found["executor"]
    return found["revs"][0]["error"] is None and (executor is None or executor["state"] == "success")


def _flat(files: Mapping[str, Any]) -> Metrics:
    return {name: value for file in files.values() for name, value in file["data"].items()}


def count(text: str) -> int:
    """A number of seeds from the command line."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: a whole number at least 1")
    return int(text)


def main() -> None:
    """Run the seeds; exit status 1 when one of them failed, with those that did not in the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.seeds", description=__doc__.split("\n\n")[1])
    parser.add_argument("seeds", type=count, metavar="N", help="how many seeds")
    parser.add_argument("-S", "--set-param", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    try:
        names = queue(arguments.seeds, arguments.assignments)
        # It ends with status 0 even when experiments failed; their states say which.
        subprocess.run([sys.executable, "-m", "dvc", "exp", "run", "--run-all"], env=environment(), stdout=sys.stderr)
        ended = results(names)
    except (InputError, WorkError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    if ended:
        print(table(COLUMNS, summary(list(ended.values()))))
    failed = [f"{seed} ({name})" for seed, name in enumerate(names) if name not in ended]
    if failed:
        print(f"error: failed seeds: {', '.join(failed)}; `dvc queue logs NAME` shows why", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
