"""A copy of the project in which an acceptance run proves the stages, and the commands that it runs."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
# For a rehearsal without a GPU: seconds instead of minutes.
SMALL = {
    "download": {"dataset": "digits"},
    "prepare": {"validation_size": 200},
    "model": {"latent_dim": 4, "encoder_widths": [32], "decoder_widths": [32], "flow_widths": [8]},
    "train": {"device": "cpu", "epochs": 30},
    "classify": {"epochs": 1},
    "evaluate": {"importance_samples": 5, "training_images": 200},
    "sample": {"images": 100},
}
NLL_TOLERANCE = 0.3  # nats between this machine's test NLL and the committed one
# Nats between the ELBOs of an epoch of eager and of other steps: the same draws, and float32's rounding of 1e-7, which
# some hundred steps carry along.
ROUNDING = 0.02
Figures = dict[str, Any]


class Failed(Exception):
    """A part failed; the message ends with its last output, and `figures` are what it measured all the same."""

    def __init__(self, message: str, **figures: Any) -> None:
        super().__init__(message)
        self.figures = figures


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
        raise Failed(f"did not end within {seconds:.0f} seconds\n{last(output)}", output=output)
    if status != (128 + signal.SIGTERM if stop_at else 0):
        raise Failed(f"exit status {status}\n{last(output)}", output=output)
    return output


class Project:
    """A copy of a project (by default of this one) in an empty folder, whose stages run without DVC."""

    def __init__(self, folder: Path, small: bool, source: Path = ROOT) -> None:
        self.folder, self.small, self.source = folder, small, source
        self.checksum = ""
        self.settings: dict[str, Any] = {}

    def prepare(self, seconds: float) -> Figures:
        """Copy the code, and the raw or else the prepared data; where this project has neither, they are downloaded."""
        end = time.monotonic() + seconds
        for name in ("vae", "stages"):
            shutil.copytree(self.source / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.settings = yaml.safe_load((self.source / "params.yaml").read_text())
        self.settings["train"]["device"] = "cuda"
        for section, values in SMALL.items() if self.small else ():
            self.settings[section] |= values
        self._write()
        carried = () if self.small else ("raw", "prepared")
        found = next((name for name in carried if (self.source / "data" / name).exists()), None)
        if found:
            shutil.copytree(self.source / "data" / found, self.folder / "data" / found)
        else:
            self.stage("download", end - time.monotonic())
        if found != "prepared":
            self.stage("prepare", end - time.monotonic())
        return {"data": f"the {found} data found here" if found else "downloaded"}

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
        """Stop a training by SIGTERM halfway and resume it, to the same bytes as one that was left alone."""
        end = time.monotonic() + seconds
        self._write()
        # An epoch that is among those printed where there is no progress bar.
        epochs = self.settings["train"]["epochs"]
        reported = range(0, epochs, -(-epochs // 20))
        halfway = f"epoch {reported[len(reported) // 2]}/{epochs}:"
        stopped = self.stage("train", end - time.monotonic(), stop_at=halfway)
        resumed = self.stage("train", end - time.monotonic())
        if "resuming from checkpoint" not in resumed:
            raise Failed(f"the second run did not resume\n{last(resumed)}")
        self._compare()
        return {"stopped": last(stopped, lines=1), "sha256": self.checksum}

    def compare_steps(self, seconds: float, step: str) -> Figures:
        """Train for one epoch with eager and with other steps, to the same ELBO but for rounding."""
        end = time.monotonic() + seconds
        eager, other = (
            self.train(end - time.monotonic(), compared=False, step=each, epochs=1)["train_elbo"]
            for each in ("eager", step)
        )
        figures = {"train_elbo_eager": eager, f"train_elbo_{step}": other}
        if abs(eager - other) > ROUNDING:
            raise Failed(f"the ELBOs differ by more than {ROUNDING} nats: {eager} and {other}", **figures)
        return figures

    def judge(self, seconds: float, stage: str) -> Figures:
        """Run a stage that judges the model, and return its metrics; the NLL must be near to the committed one."""
        start = time.monotonic()
        self.stage(stage, seconds)
        figures = {"seconds": time.monotonic() - start} | self.metrics(stage)
        if stage == "evaluate" and not self.small:
            committed = json.loads((self.source / "metrics/evaluate.json").read_text())["test_nll"]
            figures["committed_test_nll"] = committed
            if abs(figures["test_nll"] - committed) > NLL_TOLERANCE:
                raise Failed(
                    f"test_nll is {figures['test_nll']}, more than {NLL_TOLERANCE} nats from {committed}", **figures
                )
        return figures

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


def last(output: str, lines: int = 15) -> str:
    """The last lines of an output."""
    return "\n".join(output.rstrip().splitlines()[-lines:])
