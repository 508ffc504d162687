"""An undisturbed run of the smallest pipeline, stages in forked processes, and what must hold after a fault."""

import importlib
import os
import pkgutil
import random
import re
import runpy
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import yaml

import stages
import vae
import vae.files
from tests.checkouts import change, contents

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
LOCK = str(stages.LOCK)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
OLD = b"what an earlier run left"
# Files that a stage removes before it writes them, so that they are never seen beside those of another run.
REMOVED_FIRST = {"data/prepared/train.safetensors", "data/prepared/validation.safetensors"}
# Files that training rewrites after each epoch, whole each time.
BY_EPOCH = {"plots/history.csv", "metrics/train.json"}
# Files that training removes, as they are about another model until their stages have run again.
REMOVED_BY = {"train": {"metrics/evaluate.json", "metrics/sample.json"}}
SETTINGS = {
    "download": {"dataset": "digits"},
    "prepare": {"validation_size": 1000},
    "model": {
        "latent_dim": 2,
        "encoder_widths": [8],
        "decoder_widths": [8],
        "prior": "standard_normal",
        "flow_widths": [8],
    },
    "train": {"device": "cpu", "epochs": 6, "checkpoint_every": 1, "ema_decay": 0.9, "snapshot_epochs": [1, 2]},
    "classify": {"epochs": 1},
    "evaluate": {"importance_samples": 2, "training_images": 50},
    "sample": {"images": 50},
    "embed": {"method": "pca", "images": 50},
    "plot": {"dpi": 50, "samples": 9},
}


class Outcome(NamedTuple):
    """How a process ended: its exit status, or the negative number of the signal that ended it, and what it said."""

    status: int
    output: str


@dataclass
class World:
    """The files of an undisturbed run, and a copy of them for each stage to be disturbed in."""

    folder: Path
    reference: dict[str, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> "World":
        """Run every stage twice, undisturbed."""
        world = cls(folder)
        first = folder / "reference"
        first.mkdir(parents=True)
        shutil.copy(ROOT / "params.yaml", first)
        change(first, **SETTINGS)
        for _ in range(2):  # the first time takes longer
            for stage in PIPELINE:
                start = time.monotonic()
                outcome = fork(first, stage)
                world.seconds[stage] = time.monotonic() - start
                if outcome.status:
                    raise RuntimeError(f"{stage}: {outcome}")
            world.reference = world.reference or files(first)
        if found := differences(world.reference, files(first)):
            raise RuntimeError(f"two undisturbed runs differ: {found}")
        for stage in PIPELINE:
            shutil.copytree(first, world.place(stage))
        return world

    def place(self, stage: str) -> Path:
        """The folder in which a stage is disturbed."""
        return self.folder / stage

    def choose(self, rng: random.Random) -> str:
        """A stage; those that take long come less often."""
        return rng.choices(list(self.seconds), [1 / (0.1 + seconds) for seconds in self.seconds.values()])[0]

    def outputs(self, stage: str) -> list[str]:
        """The files that a stage writes."""
        entry = PIPELINE[stage]
        listed = [
            name
            for item in (*entry["outs"], *entry.get("metrics", ()))
            for name in ([*item] if isinstance(item, dict) else [item])
        ]
        known = [path for path in self.reference if not path.endswith("/")]
        return [path for path in known if any(path == name or path.startswith(f"{name}/") for name in listed)]

    def expected(self, stage: str) -> dict[str, bytes]:
        """All files after a stage has run, and its folders."""
        removed = REMOVED_BY.get(stage, set())
        return {path: content for path, content in self.reference.items() if path not in removed}

    def age(self, stage: str) -> None:
        """Put other contents in the place of a stage's outputs, so that a file that is half of each would show."""
        for path in self.outputs(stage):
            (self.place(stage) / path).write_bytes(OLD)

    def after_fault(self, stage: str, outcome: Outcome, number: int = 0, leftovers: bool = False) -> list[str]:
        """What is wrong right after a fault, and the signal `number` if one was sent.

        There may be `leftovers` where nothing could remove them.
        """
        found = list(complaints(outcome, number))
        now = files(self.place(stage))
        for path in self.outputs(stage):
            absent_is_right = path in REMOVED_FIRST and path not in now
            whole = now.get(path) in (OLD, self.reference[path]) or (
                path in BY_EPOCH and is_whole(path, now.get(path, b""))
            )
            if not whole and not absent_is_right:
                found.append(f"{path}: neither the old contents nor the new ones")
        if not leftovers:
            found += [f"{path}: left over" for path in now if is_temporary(path)]
        return found

    def settle(self, stage: str) -> list[str]:
        """Run the stage again, undisturbed; what then differs from the undisturbed run."""
        outcome = fork(self.place(stage), stage)
        found = [f"the next run: {outcome}"] if outcome.status else []
        found += differences(self.expected(stage), files(self.place(stage)))
        if found:  # as the next case must not suffer
            shutil.rmtree(self.place(stage))
            shutil.copytree(self.folder / "reference", self.place(stage))
        return found


def files(folder: Path) -> dict[str, bytes]:
    """All files of a run, and its folders as empty files, but for the lock."""
    found = contents(folder, *(path.name for path in folder.iterdir()))
    folders = {f"{path.relative_to(folder)}/": b"" for path in folder.rglob("*") if path.is_dir()}
    return {name: content for name, content in (found | folders).items() if name != LOCK}


def differences(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """The names of files that differ."""
    return [
        f"{name}: {'missing' if name not in found else 'left over' if name not in expected else 'other bytes'}"
        for name in sorted({**expected, **found})
        if expected.get(name) != found.get(name)
    ]


def is_whole(path: str, content: bytes) -> bool:
    """Whether the history or the metrics of some epoch are complete."""
    if path.endswith(".json"):
        return content.endswith(b"}\n")
    lines = content.decode().split("\n")
    return lines[-1] == "" and len({line.count(",") for line in lines[:-1]}) == 1


def is_temporary(path: str) -> bool:
    """Whether a file is one that is written before it takes its place."""
    return path.endswith(".tmp")


def complaints(outcome: Outcome, number: int = 0) -> list[str]:
    """What is wrong with how a process ended and what it said, having got the signal `number` if that is not 0."""
    allowed = (0, 1, 2, -number if number == signal.SIGKILL else 128 + number)
    found = [] if outcome.status in allowed else [f"exit status {outcome.status}"]
    errors = re.findall("^error: .*", outcome.output, re.MULTILINE)
    if "Traceback" in outcome.output:
        found.append(f"a traceback: {outcome.output[-2000:]}")
    if len(errors) > 1:
        found.append(f"{len(errors)} errors: {errors}")
    if outcome.status in (1, 2) and not errors:
        found.append(f"status {outcome.status} and no error: {outcome.output[-500:]}")
    return found


def fork(
    folder: Path,
    stage: str,
    before: Callable[[], object] = lambda: None,
    after: Callable[[], object] = lambda: None,
    meanwhile: Callable[[int], object] = lambda process: None,
    limit: float = 120,
) -> Outcome:
    """Run a stage in a process of its own, forked from this one, which has everything imported.

    `before` and `after` are called in the new process, and `meanwhile` with its number in this one.
    """
    sys.stdout.flush()
    with tempfile.TemporaryFile() as said:
        # Until the new process handles them.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        process = os.fork()
        if process == 0:
            _run(folder, stage, before, after, said.fileno())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        meanwhile(process)
        status = _wait(process, limit)
        said.seek(0)
        return Outcome(status, said.read().decode(errors="replace"))


def _wait(process: int, limit: float) -> int:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return 999  # no exit status that a process can have


def _run(folder: Path, stage: str, before: Callable[[], object], after: Callable[[], object], output: int) -> NoReturn:
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        vae.files._TOKEN = secrets.token_hex(4)  # as in a process that imported it
        for number in SIGNALS:
            signal.signal(number, stages._end_at_once)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        sys.argv = [f"stages/{stage}.py"]
        before()
        runpy.run_module(f"stages.{stage}", run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        after()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def import_everything() -> None:
    """Import what the stages import, so that forked processes start at once."""
    for module in pkgutil.walk_packages(vae.__path__, "vae."):
        importlib.import_module(module.name)
    for stage in PIPELINE:
        importlib.import_module(f"stages.{stage}")
    for name in ("filelock", "psutil", "sklearn.datasets", "torchvision.datasets", "vae.sources.mirrors"):
        importlib.import_module(name)
    for stage in PIPELINE:  # runpy warns of modules that are there already
        del sys.modules[f"stages.{stage}"]
