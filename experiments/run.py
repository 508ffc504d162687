"""Run a named experiment: `python -m experiments.run NAME`.

experiments/NAME.yaml holds what differs from params.yaml. The run goes through `dvc exp run`, so that it lands in
`dvc exp show`; further options go to it as they are, such as `--queue` or `-S train.epochs=20`. With `--folder` the
run happens in a copy of the project, which leaves this one as it is, and without DVC where none is installed.
"""

import argparse
import datetime
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import report
from experiments.show import metrics_table
from vae.errors import InputError
from vae.settings import parse_settings
from vae.storage import write_json

EXPERIMENTS = Path("experiments")
PROJECT = ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore", "stages", "vae", ".dvc/plots")

Changes = dict[str, dict[str, Any]]


def names() -> list[str]:
    """The experiments there are, in alphabetical order."""
    return sorted(str(path.relative_to(EXPERIMENTS).with_suffix("")) for path in EXPERIMENTS.rglob("*.yaml"))


def read_experiment(name: str, assignments: Sequence[str] = ()) -> Changes:
    """Read what an experiment changes, section by section; assignments such as `train.epochs=20` come on top.

    Raises:
        InputError: there is no such experiment, or it does not fit params.yaml; the message names the key.
    """
    if name not in names():
        raise InputError(f"{name}: no such experiment, allowed: {', '.join(names())}")
    path = EXPERIMENTS / f"{name}.yaml"
    changes: Changes = yaml.safe_load(path.read_text())
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        section, _, key = key.partition(".")
        changes.setdefault(section, {})[key] = yaml.safe_load(value)
    parse_settings(changed(yaml.safe_load(Path("params.yaml").read_text()), changes), str(path))
    return changes


def changed(settings: Changes, changes: Changes) -> Changes:
    """Settings of two levels with some values replaced."""
    return settings | {section: {**settings.get(section, {}), **values} for section, values in changes.items()}


def run_here(name: str, changes: Changes, options: Sequence[str]) -> None:
    """Run through `dvc exp run` in this workspace; `options` go to it as they are."""
    values = [f"{section}.{key}={json.dumps(value)}" for section, key, value in _flat(changes)]
    arguments = [argument for value in values for argument in ("--set-param", value)]
    _call("-m", "dvc", "exp", "run", "--name", name.replace("/", "-"), *arguments, *options, folder=Path())


def run_in(folder: Path, changes: Changes) -> None:
    """Run in a copy of the project at `folder`, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in PROJECT:
        copy = shutil.copytree if Path(name).is_dir() else shutil.copyfile
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(name, folder / name)
    settings = changed(yaml.safe_load(Path("params.yaml").read_text()), changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    if importlib.util.find_spec("dvc") is None:
        for stage in yaml.safe_load(Path("dvc.yaml").read_text())["stages"]:
            _call("-m", f"stages.{stage}", folder=folder)
    else:
        _call("-m", "dvc", "init", "--quiet", "--no-scm", "--force", folder=folder)
        shutil.copyfile(".dvc/config", folder / ".dvc/config.local")
        _call("-m", "dvc", "repro", folder=folder)
    print(metrics_table(folder))


def record(name: str, folder: Path, seconds: float) -> None:
    """Keep what a run in `folder` came to, and on which machine, for the results' page."""
    settings = yaml.safe_load((folder / "params.yaml").read_text())
    device = torch.device("cuda" if torch.cuda.is_available() and settings["train"]["device"] != "cpu" else "cpu")
    metrics = [json.loads((folder / f"metrics/{stage}.json").read_text()) for stage in ("train", "evaluate")]
    kept = {
        "command": " ".join(["python -m experiments.run", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(seconds, 1),
        "machine": report.machine(device),
        "versions": report.versions(device),
        "metrics": metrics[0] | metrics[1],
        "settings": settings,
    }
    write_json(EXPERIMENTS / "results" / f"{name.replace('/', '-')}.json", kept)


def _flat(changes: Changes) -> Iterator[tuple[str, str, Any]]:
    for section, values in changes.items():
        for key, value in values.items():
            yield section, key, value


def environment() -> dict[str, str]:
    """The variables for a DVC whose stages' `python` is this one, whether or not its environment is activated."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def _call(*arguments: str, folder: Path) -> None:
    status = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment()).returncode
    if status:
        sys.exit(status)


def main() -> None:
    """Run the experiment that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m experiments.run", description=__doc__.split("\n\n")[1])
    parser.add_argument("name", help="a file in experiments/, without .yaml")
    parser.add_argument("--folder", type=Path, help="run in a copy of the project here instead of in this workspace")
    parser.add_argument("-S", "--set-param", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--record", action="store_true", help="keep the folder's metrics for docs/results.md")
    arguments, options = parser.parse_known_args()
    try:
        changes = read_experiment(arguments.name, arguments.assignments)
        if arguments.folder and options:
            raise InputError(f"{' '.join(options)}: no option of a run with --folder")
        if arguments.record and not arguments.folder:
            raise InputError("--record: allowed only with --folder")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if arguments.folder:
        start = time.monotonic()
        run_in(arguments.folder, changes)
        if arguments.record:
            record(arguments.name, arguments.folder, time.monotonic() - start)
    else:
        run_here(arguments.name, changes, options)


if __name__ == "__main__":
    main()
