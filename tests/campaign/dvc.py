"""`dvc repro` killed: with all that it started, alone, or amid a system call of any of its processes."""

import math
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from tests.campaign.faults import CHANGES, variable
from tests.campaign.world import PIPELINE, ROOT, SETTINGS, Outcome, World, complaints, differences, files, is_temporary
from tests.checkouts import ENVIRONMENT, call, change

OF_DVC = re.compile(r"(.*/)?\.[\w-]{22}\.tmp")  # what it writes before it links a file of its cache
LONGEST = 4.5  # seconds of a forced stage under DVC, roughly


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Kill a stage that DVC runs, with its settings changed at times, and let DVC reproduce what was there."""
    place = _checkout(world)
    before = _files(place)
    settings = (place / "params.yaml").read_bytes()
    stage = rng.choice([name for name in PIPELINE if name != "download"])
    changed = rng.random() < 0.5 and stage != "report"
    if changed:
        change(place, **{stage: {"seed": 7}})
    way = rng.choice(("group", "alone", "call"))
    command = ("dvc", "repro", "--single-item", *(() if changed else ("--force",)), stage)
    nth = int(math.exp(rng.uniform(0, math.log(200))))
    faults = {"FAULTS": variable(place, CHANGES, nth, 0)} if way == "call" else {}
    process = _start(place, *command, environment=faults)
    moment = rng.uniform(0.5, LONGEST)
    try:
        process.wait(timeout=60 if way == "call" else moment)
    except subprocess.TimeoutExpired:
        (os.killpg if way == "group" else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
    killed = process.returncode != 0
    (place / "params.yaml").write_bytes(settings)
    again = _start(place, "dvc", "repro")
    # What the killed one still says, such as that its DVC is gone, comes from the orphan.
    said = again.communicate(timeout=300)[0]
    process.communicate(timeout=60)
    counts = Counter({f"kills of dvc ({way})": int(killed)})
    if "Unable to read RWLock-file" in said:
        # DVC writes this file in place: killed amid it, it asks for the file's removal.
        counts["locks that DVC left half written"] += 1
        (place / ".dvc/tmp/rwlock").unlink()
        again = _start(place, "dvc", "repro")
        said = again.communicate(timeout=300)[0]
    outcome = Outcome(again.returncode, said)
    found = complaints(outcome) + ([f"the next run: {outcome}"] if again.returncode else [])
    now = _files(place)
    for name in [name for name in now if OF_DVC.fullmatch(name)]:
        counts["temporary files that DVC left"] += 1
        (place / name).unlink()
        del now[name]
    if changed and stage == "train":  # what it reached with other settings is kept until somebody removes it
        saved = [name for name in now if name.startswith("data/.checkpoints/") and not is_temporary(name)]
        now = {name: content for name, content in now.items() if name not in saved or name in before}
        for folder in (place / "data/.checkpoints").glob("*/"):
            shutil.rmtree(folder)
    found += differences(before, now)
    found += [f"process {number} is left" for number in _processes(place)]
    if found:
        shutil.rmtree(place)
    where = f"after {moment:.2f} s" if way != "call" else f"at call {nth}"
    line = f"dvc repro {stage}{', settings changed' * changed}, killed {way} {where}"
    return counts, [f"{line}: {text}" for text in found]


def _checkout(world: World) -> Path:
    """A checkout in which DVC knows the undisturbed run."""
    place = world.folder / "checkout"
    if place.exists():
        return place
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, listed):
        if name.startswith((".dvc", ".gitignore", "dvc.yaml", "params.yaml", "stages/", "vae/")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    shutil.copytree(world.folder / "reference", place, dirs_exist_ok=True)
    change(place, **SETTINGS)
    call(place, "git", "init", "--quiet", "--initial-branch=main")
    call(place, "dvc", "commit", "--force", "--quiet")
    call(place, "dvc", "repro", "--quiet")
    return place


def _files(place: Path) -> dict[str, bytes]:
    kept = ("data/", "metrics/", "plots/", "params.yaml", "dvc.")
    return {
        name: content
        for name, content in files(place).items()
        if name.startswith(kept) or not name.startswith((".git/", ".dvc/", "stages/", "vae/"))
    }


def _start(place: Path, *command: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=place, env=environment, start_new_session=True, **streams)


def _processes(place: Path) -> list[int]:
    """The processes that work in a folder, but for those that end within seconds."""
    for _ in range(30):
        found = []
        for path in Path("/proc").glob("[0-9]*/cwd"):
            try:
                if path.readlink().is_relative_to(place):
                    found.append(int(path.parent.name))
            except OSError:
                continue
        if not found:
            break
        time.sleep(1)
    return found
