"""Check that all works on this machine's GPU, and how fast: `python -m benchmarks.acceptance`, ten minutes at most.

It runs the `cuda` tests, trains with params.yaml twice and once interrupted, judges the model, trains in other ways,
and runs the benchmark. Every figure goes into one JSON file and one page of Markdown as soon as it is known. The stages
run in a copy of the project. Exit status 1 means that a part failed, 2 that there is no GPU.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import report
from tools.tables import table
from vae.files import replacing, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
ALLOWED_SECONDS = 600
TESTS = ("tests/training", "tests/model", "tests/evaluation", "tests/benchmarks")
# For a rehearsal without a GPU: seconds instead of minutes.
SMALL = {
    "download": {"dataset": "digits"},
    "prepare": {"validation_size": 200},
    "model": {"latent_dim": 4, "encoder_widths": [32], "decoder_widths": [32], "flow_widths": [8]},
    "train": {"device": "cpu", "epochs": 60},
    "classify": {"epochs": 1},
    "evaluate": {"importance_samples": 5, "training_images": 200},
    "sample": {"images": 100},
}
Figures = dict[str, Any]


class Failed(Exception):
    """A part failed; the message ends with its last output."""


@dataclass(frozen=True)
class Part:
    """One thing to prove: `work` takes the seconds that it may use and returns what it measured, or raises Failed."""

    name: str
    seconds: float
    work: Callable[[float], Figures]


def command(arguments: Sequence[str], seconds: float, folder: Path = ROOT, stop_at: str | None = None) -> str:
    """Run Python with these arguments and return what it printed; at a line with `stop_at` it gets SIGTERM.

    Raises:
        Failed: it did not end in time, or ended with a status other than 0 (with `stop_at`: other than SIGTERM's 143).
    """
    ended_in_time, lines, unsignaled = True, [], stop_at

    def kill() -> None:
        nonlocal ended_in_time
        ended_in_time = False
        os.killpg(process.pid, signal.SIGKILL)

    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    call = [sys.executable, *arguments]
    with subprocess.Popen(call, cwd=folder, env=environment, start_new_session=True, **streams) as process:
        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            for line in process.stdout:
                lines.append(line)
                if unsignaled and unsignaled in line:
                    process.terminate()
                    unsignaled = None
            status = process.wait()
        finally:
            timer.cancel()
    output = "".join(lines)
    if not ended_in_time:
        raise Failed(f"did not end within {seconds:.0f} seconds\n{_last(output)}")
    if status != (128 + signal.SIGTERM if stop_at else 0):
        raise Failed(f"exit status {status}\n{_last(output)}")
    return output


class Project:
    """A copy of this project in an empty folder, whose stages run without DVC."""

    def __init__(self, folder: Path, small: bool) -> None:
        self.folder, self.small = folder, small
        self.checksum = ""
        self.settings: dict[str, Any] = {}

    def prepare(self, seconds: float) -> Figures:
        """Copy code and data, and prepare the data; the raw data are downloaded where this project has none."""
        end = time.monotonic() + seconds
        for name in ("vae", "stages"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.settings = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.settings["train"]["device"] = "cuda"
        for section, values in SMALL.items() if self.small else ():
            self.settings[section] |= values
        self._write()
        raw = ROOT / "data/raw"
        if raw.exists() and not self.small:
            shutil.copytree(raw, self.folder / "data/raw")
        else:
            self.stage("download", end - time.monotonic())
        self.stage("prepare", end - time.monotonic())
        return {}

    def stage(self, name: str, seconds: float, **options: Any) -> str:
        """Run a stage and return what it printed."""
        return command(["-m", f"stages.{name}"], seconds, self.folder, **options)

    def train(self, seconds: float, compared: bool = True, **changes: Any) -> Figures:
        """Train with changed settings; `compared`: to the same bytes as the first such run."""
        self._write(**changes)
        start = time.monotonic()
        self.stage("train", seconds)
        figures = {"seconds": time.monotonic() - start} | self.metrics("train") | {"sha256": self._model_checksum()}
        if compared:
            self._compare()
        return figures

    def interrupt(self, seconds: float) -> Figures:
        """Stop a training by SIGTERM halfway and resume it, to the same bytes as an uninterrupted one."""
        end = time.monotonic() + seconds
        self._write()
        # An epoch that is among those printed where there is no progress bar.
        epochs = self.settings["train"]["epochs"]
        reported = range(0, epochs, -(-epochs // 20))
        halfway = f"epoch {reported[len(reported) // 2]}/{epochs}:"
        stopped = self.stage("train", end - time.monotonic(), stop_at=halfway)
        resumed = self.stage("train", end - time.monotonic())
        if "resuming from checkpoint" not in resumed:
            raise Failed(f"the second run did not resume\n{_last(resumed)}")
        self._compare()
        return {"stopped": _last(stopped, lines=1), "sha256": self.checksum}

    def judge(self, seconds: float, stage: str) -> Figures:
        """Run a stage that judges the model, and return its metrics."""
        start = time.monotonic()
        self.stage(stage, seconds)
        return {"seconds": time.monotonic() - start} | self.metrics(stage)

    def metrics(self, stage: str) -> Figures:
        """What a stage wrote to its metrics file."""
        return json.loads((self.folder / f"metrics/{stage}.json").read_text())

    def _write(self, **changes: Any) -> None:
        settings = self.settings | {"train": self.settings["train"] | changes}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def _model_checksum(self) -> str:
        return hashlib.sha256((self.folder / "data/model.safetensors").read_bytes()).hexdigest()

    def _compare(self) -> None:
        found = self._model_checksum()
        self.checksum = self.checksum or found
        if found != self.checksum:
            raise Failed(f"other bytes than the first training: sha256 {found}, not {self.checksum}")


def run_tests(seconds: float) -> Figures:
    """Run the tests that need a GPU."""
    output = command(["-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", *TESTS], seconds)
    return {"said": _last(output, lines=1)}


def run_benchmark(seconds: float, folder: Path) -> Figures:
    """Time the trainer against plain Pyro and bare PyTorch."""
    output = folder / f"benchmark-{report.file_name(torch.device('cuda'), _today())}"
    printed = command(["-m", "benchmarks.run", "--device", "cuda", "--rounds", "3", "--output", str(output)], seconds)
    return {"written": output.name, "tables": printed}


def parts(project: Project, folder: Path) -> list[Part]:
    """What is run, the most important first."""
    judged = [Part(stage, 60, partial(project.judge, stage=stage)) for stage in ("classify", "evaluate", "sample")]
    others = {"tf32": {"precision": "tf32"}, "bfloat16": {"precision": "bfloat16"}, "eager": {"step": "eager"}}
    trained = [
        Part("preparation", 90, project.prepare),
        Part("training", 90, project.train),
        Part("training again", 90, project.train),
        Part("training interrupted", 120, project.interrupt),
        *judged,
        *(
            Part(f"training, {name}", 120, partial(project.train, compared=False, **changes))
            for name, changes in others.items()
            if not project.small
        ),
    ]
    if project.small:
        return trained
    return [
        Part("tests", 150, run_tests),
        *trained[:-1],
        Part("benchmark", 240, partial(run_benchmark, folder=folder)),
        trained[-1],
    ]


def run_parts(todo: Sequence[Part], about: Figures, output: Path, allowed: float = ALLOWED_SECONDS) -> bool:
    """Run the parts in turn within `allowed` seconds, write the results after each one; return whether all passed."""
    end, results = time.monotonic() + allowed, []
    for number, part in enumerate(todo, start=1):
        start = time.monotonic()
        row: Figures = {"part": part.name}
        if start >= end:
            row |= {"status": "not run", "reason": f"the {allowed:.0f} seconds were over"}
        else:
            try:
                row |= {"status": "passed", **part.work(min(part.seconds, end - start))}
            except Failed as failure:
                row |= {"status": "failed", "reason": str(failure)}
            except Exception as error:  # the remaining parts must run as well
                row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        results.append(row | {"wall_seconds": time.monotonic() - start})
        print(f"{number}/{len(todo)} {part.name}: {row['status']} ({results[-1]['wall_seconds']:.1f} s)", flush=True)
        write_json(output, about | {"parts": results})
        with replacing(output.with_suffix(".md")) as file:
            file.write(page(about, results).encode())
    return all(row["status"] == "passed" for row in results)


def page(about: Figures, results: Sequence[Figures]) -> str:
    """The results as a page of Markdown: a table of the parts, then what each one measured."""
    machine = ", ".join(f"{key} {value}" for key, value in (about["machine"] | about["versions"]).items() if value)
    columns = {"part": "{part}", "result": "{status}", "seconds": "{wall_seconds:.1f}"}
    lines = [f"# Acceptance on {about['date']}", "", machine, "", table(columns, results)]
    for row in results:
        lines += ["", f"## {row['part']}: {row['status']}", ""]
        for key, value in row.items():
            if key in ("reason", "tables"):
                lines += ["```", str(value).rstrip(), "```"]
            elif key not in ("part", "status", "wall_seconds"):
                lines.append(f"- {key}: {value:.6g}" if isinstance(value, float) else f"- {key}: {value}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Read the command line, run the parts, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acceptance", description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder of the results (benchmarks/results)")
    parser.add_argument("--rehearse", action="store_true", help="the stages alone, on the CPU, with small images")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("There is no GPU that torch can use here, so there is nothing to accept.", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.rehearse else "cuda")
    about = {"date": _today(), "machine": report.machine(device), "versions": report.versions(device)}
    folder = options.output.resolve()
    output = folder / f"acceptance-{report.file_name(device, _today())}"
    with tempfile.TemporaryDirectory(prefix="acceptance-") as scratch:
        passed = run_parts(parts(Project(Path(scratch), small=options.rehearse), folder), about, output)
    print(f"written: {output} and {output.with_suffix('.md').name}")
    return 0 if passed else 1


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _last(output: str, lines: int = 15) -> str:
    return "\n".join(output.rstrip().splitlines()[-lines:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
