"""Run a named experiment: `python -m tools.run NAME`.

experiments/NAME.yaml holds what differs from params.yaml. The run goes through `dvc exp run`, so that it appears in
`dvc exp show`; further options are passed on, such as `--queue` or `-S train.epochs=20`. With `--folder` the
run happens in a copy of the project, which leaves this one as it is, and without DVC where none is installed. Such a
folder is new, empty, or one that an earlier run made: nothing else is ever removed. With `--record` it ends with the
evaluation and is kept in experiments/results/ by the name of the experiment and the training seed.
"""

import argparse
import datetime
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tools.errors import reported
from tools.show import metrics_table
from vae.errors import InputError
from vae.files import read_arrays, write_arrays, write_json
from vae.identity import code_identity
from vae.settings import parse_settings, parse_yaml, read_yaml

EXPERIMENTS = Path("experiments")
PROJECT = ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore", "stages", "vae", ".dvc/plots")

MARKER = ".pyro-vae-run"  # in every folder that a run made, and the only license to empty it
INSIDE = (".demo", ".runs")  # folders of this project, ignored by Git, in which runs may be made

RESULTS = EXPERIMENTS / "results"
RECORDED = ("download", "prepare", "train", "evaluate")  # the stages of a run that is recorded
CODE = (
    "vae/sources",
    "vae/data",
    "vae/model",
    "vae/training",
    "vae/evaluation",
    *(f"stages/{stage}.py" for stage in RECORDED),
)

Changes = dict[str, dict[str, Any]]


def names() -> list[str]:
    """The names of all experiments, in alphabetical order."""
    return sorted(path.relative_to(EXPERIMENTS).with_suffix("").as_posix() for path in EXPERIMENTS.rglob("*.yaml"))


def read_experiment(name: str, assignments: Sequence[str] = ()) -> Changes:
    """Read what an experiment changes, section by section; assignments such as `train.epochs=20` are applied on top.

    Raises:
        InputError: there is no such experiment, or it does not fit params.yaml; the message names the key.
    """
    if name not in names():
        raise InputError(f"{name}: no such experiment, allowed: {', '.join(names())}")
    path = EXPERIMENTS / f"{name}.yaml"
    changes = _sections(read_yaml(path), str(path))
    for assignment in assignments:
        found = re.fullmatch(r"(\w+)\.(\w+)=(.*)", assignment, re.DOTALL)
        if not found:
            raise InputError(f"-S {assignment}: allowed: SECTION.KEY=VALUE, such as train.epochs=20")
        section, key, value = found.groups()
        changes.setdefault(section, {})[key] = parse_yaml(value, f"-S {assignment}")
    parse_settings(changed(read_yaml("params.yaml"), changes), str(path))
    return changes


def _sections(values: Any, source: str) -> Changes:
    """Check that values read from a file are keys in sections; `parse_settings` checks which keys exist."""
    if not isinstance(values, dict) or not all(isinstance(keys, dict) for keys in values.values()):
        raise InputError(f"{source}: not sections of keys; allowed is, for example, `epochs: 20` below `train:`")
    return values


def changed(settings: Changes, changes: Changes) -> Changes:
    """Settings of two levels with some values replaced."""
    settings = _sections(settings, "params.yaml")
    return settings | {section: {**settings.get(section, {}), **values} for section, values in changes.items()}


def run_here(name: str, changes: Changes, options: Sequence[str]) -> None:
    """Run through `dvc exp run` in this workspace; `options` are passed on."""
    values = [f"{section}.{key}={json.dumps(value)}" for section, key, value in _flat(changes)]
    arguments = [argument for value in values for argument in ("--set-param", value)]
    _call("-m", "dvc", "exp", "run", "--name", name.replace("/", "-"), *arguments, *options, folder=Path())


def run_in(folder: Path, changes: Changes, recorded: bool = False) -> None:
    """Run in a copy of the project at `folder`, which is made anew; a recorded run ends with the evaluation.

    Raises:
        InputError: the folder holds anything that an earlier run did not make; nothing was removed.
    """
    empty_folder(folder)
    for name in PROJECT:
        copy = shutil.copytree if Path(name).is_dir() else shutil.copyfile
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(name, folder / name)
    settings = changed(read_yaml("params.yaml"), changes)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    if importlib.util.find_spec("dvc") is None:
        for stage in RECORDED if recorded else read_yaml("dvc.yaml")["stages"]:
            _call("-m", f"stages.{stage}", folder=folder)
    else:
        _call("-m", "dvc", "init", "--quiet", "--no-scm", "--force", folder=folder)
        shutil.copyfile(".dvc/config", folder / ".dvc/config.local")
        _call("-m", "dvc", "repro", *RECORDED[-1:] * recorded, folder=folder)
    print(metrics_table(folder))


def empty_folder(folder: Path) -> None:
    """Create a folder that holds only the mark of a run, or empty that of an earlier run.

    Raises:
        InputError: it is this project, above it, or in it outside of .demo and .runs, or somebody else's.
    """
    project, place = Path.cwd().resolve(), folder.resolve()
    if project.is_relative_to(place):
        raise InputError(f"--folder {folder}: this project or a folder above it; allowed: a folder of its own")
    if place.is_relative_to(project) and place.relative_to(project).parts[0] not in INSIDE:
        raise InputError(f"--folder {folder}: part of this project; allowed within it: {', '.join(INSIDE)}")
    if place.exists() and not place.is_dir():
        raise InputError(f"--folder {folder}: not a folder")
    marker = place / MARKER
    if place.exists() and any(place.iterdir()) and not marker.is_file():
        raise InputError(
            f"--folder {folder}: not empty, and no earlier run made it (it has no {MARKER}); "
            "choose another folder, or remove this one yourself"
        )
    place.mkdir(parents=True, exist_ok=True)
    marker.touch()
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != marker:
            path.unlink()


def record_path(name: str, seed: int | str) -> Path:
    """Where the record of an experiment's run with a training seed is kept, or a pattern of such paths."""
    return RESULTS / f"{name.replace('/', '-')}-seed{seed}.json"


def code(folder: Path) -> dict[str, str]:
    """The identity of the code in a folder that a recorded run depends on, by path."""
    return {path: code_identity(folder / path) for path in CODE}


def record(name: str, folder: Path, seconds: float) -> None:
    """Keep a run's metrics, test images, code and machine for the results page, and beside it each image's NLL."""
    import torch  # takes seconds, for which most runs need not wait

    from benchmarks import report

    settings = read_yaml(folder / "params.yaml")
    device = torch.device("cuda" if torch.cuda.is_available() and settings["train"]["device"] != "cpu" else "cpu")
    metrics = [json.loads((folder / f"metrics/{stage}.json").read_text()) for stage in ("train", "evaluate")]
    kept = {
        "command": " ".join(["python -m tools.run", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(seconds, 1),
        "machine": report.machine(device),
        "versions": report.versions(device),
        "code": code(folder),
        "test_images": hashlib.sha256((folder / "data/prepared/test.safetensors").read_bytes()).hexdigest(),
        "metrics": metrics[0] | metrics[1],
        "settings": settings,
    }
    path = record_path(name, settings["train"]["seed"])
    # The record last: where there is one, it is whole.
    write_arrays(path.with_suffix(".npz"), {"nll": read_arrays(folder / "data/latents.npz")["nll"]})
    write_json(path, kept)


def _flat(changes: Changes) -> Iterator[tuple[str, str, Any]]:
    for section, values in changes.items():
        for key, value in values.items():
            yield section, key, value


def environment() -> dict[str, str]:
    """The variables for a DVC that reports nothing, and whose stages' `python` is this one, activated or not."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def _call(*arguments: str, folder: Path) -> None:
    status = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment()).returncode
    if status:
        sys.exit(status)


def main() -> None:
    """Run the experiment that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tools.run", description=__doc__.split("\n\n")[1])
    parser.add_argument("name", help="a file in experiments/, without .yaml")
    parser.add_argument("--folder", help="run in a copy of the project here instead of in this workspace")
    parser.add_argument("-S", "--set-param", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--record", action="store_true", help="end with the evaluation, and keep it for docs/results.md"
    )
    arguments, options = parser.parse_known_args()
    with reported():
        changes = read_experiment(arguments.name, arguments.assignments)
        if arguments.folder == "":
            raise InputError("--folder: empty; is a variable not set?")
        if arguments.folder and options:
            raise InputError(f"{' '.join(options)}: not an option of a run with --folder")
        if arguments.record and not arguments.folder:
            raise InputError("--record: allowed only with --folder")
        if arguments.folder:
            start = time.monotonic()
            run_in(Path(arguments.folder), changes, arguments.record)
            if arguments.record:
                record(arguments.name, Path(arguments.folder), time.monotonic() - start)
        else:
            run_here(arguments.name, changes, options)


if __name__ == "__main__":
    main()
