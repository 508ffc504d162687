"""Print a table of experiments for papers and spreadsheets: `python -m tools.table --format latex [REV ...]`.

REV is any Git revision, the name of a DVC experiment, or `workspace`; without one, the table has HEAD and the
experiments that started from it. `--metrics` chooses metrics by their keys in metrics/*.json. Each value comes with its
standard error, if it has one. `csv` has plain numbers, with errors in separate columns; `markdown` and `latex` round as
the report does. The LaTeX table needs the package booktabs and, for letters outside English, a font or an input
encoding with them.
"""

import argparse
import csv
import io
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tools import tables
from tools.revisions import open_run, read_metrics
from tools.run import environment
from vae.errors import InputError, WorkError
from vae.evaluation.measures import BESIDE, MEASURES, RELAXED, STDERR

METRICS = ("test_nll", "test_elbo", "reconstruction_nll", "kl", "active_units", "frechet_distance")
LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}

Runs = Mapping[str, Mapping[str, float]]


def as_csv(runs: Runs, keys: Sequence[str]) -> str:
    """The metrics `keys` of runs by name; an empty cell where a run has none."""
    columns = [
        column for key in keys for column in (key, f"{key}{STDERR}") if any(column in run for run in runs.values())
    ]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["experiment", *columns])
    writer.writerows([name, *(run.get(column, "") for column in columns)] for name, run in runs.items())
    return text.getvalue()


def as_markdown(runs: Runs, keys: Sequence[str]) -> str:
    """The same for people, as value ± standard error."""
    columns = {"experiment": "{experiment}"} | {key: f"{{{key}:>}}" for key in keys}
    rows = [{"experiment": name} | {key: " ± ".join(_rounded(run, key)) for key in keys} for name, run in runs.items()]
    return tables.table(columns, rows) + "\n"


def as_latex(runs: Runs, keys: Sequence[str]) -> str:
    """The same as a LaTeX tabular with the rules of the package booktabs."""
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(keys)}}}",
        r"\toprule",
        _latex_row(["Experiment", *(escape(_title(key)) for key in keys)]),
        r"\midrule",
        *(_latex_row([escape(name), *(_latex_cell(run, key) for key in keys)]) for name, run in runs.items()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


FORMATS = {"csv": as_csv, "latex": as_latex, "markdown": as_markdown}


def escape(text: str) -> str:
    """Text as LaTeX sets it, character by character."""
    return "".join(LATEX.get(character, character) for character in text)


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex_cell(run: Mapping[str, float], key: str) -> str:
    # A number in text would have a hyphen for its minus sign.
    numbers = r" \pm ".join(map(escape, _rounded(run, key)))
    return f"${numbers}$" if numbers else "--"


def _title(key: str) -> str:
    measure = MEASURES.get(key)
    return f"{measure.name} ({measure.unit})" if measure and measure.unit else key


def _rounded(run: Mapping[str, float], key: str) -> list[str]:
    """A metric and, where it has one, its standard error; empty where the run does not have the metric."""
    form = MEASURES[key].form if key in MEASURES else ".6g"
    return [format(run[name], form) for name in (key, f"{key}{STDERR}") if key in run and name in run]


def choose(runs: Runs, chosen: Sequence[str] | None) -> Sequence[str]:
    """The metrics to show: those that were asked for, or the usual ones that a run has.

    Raises:
        InputError: no run has a metric that was asked for.
    """
    known = [key for key in dict.fromkeys(key for run in runs.values() for key in run) if not key.endswith(BESIDE)]
    for key in chosen or ():
        if key not in known:
            raise InputError(f"--metrics: no run has {key}, allowed: {', '.join(known)}")
    return chosen or [key for key in known if key.removeprefix(RELAXED) in METRICS]


def experiments() -> list[str]:
    """The names of the experiments that started from HEAD; raises WorkError where DVC fails."""
    command = [sys.executable, "-m", "dvc", "exp", "list", "--name-only"]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise WorkError(f"dvc exp list: exit status {done.returncode}")
    return done.stdout.split()


def main() -> None:
    """Print the table that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tools.table", description=__doc__.split("\n\n")[1])
    parser.add_argument("revisions", nargs="*", metavar="REV", help="a Git revision, an experiment's name or workspace")
    parser.add_argument("--format", choices=FORMATS, default="markdown")
    parser.add_argument("--metrics", nargs="+", metavar="KEY", help="keys in metrics/*.json")
    arguments = parser.parse_args()
    try:
        names = arguments.revisions or ["HEAD", *experiments()]
        runs = {name: read_metrics(open_run(name)) for name in names}
        keys = choose(runs, arguments.metrics)
    except (InputError, WorkError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    print(FORMATS[arguments.format](runs, keys), end="")


if __name__ == "__main__":
    main()
