"""Ten thousand epochs: memory, descriptors, checkpoints and the time per epoch do not grow with them."""

import json
import random
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.campaign.world import World, complaints, fork
from tests.checkouts import change
from vae.training import loop

EPOCHS = 10_000
SETTINGS = {"step": "recorded", "epochs": EPOCHS, "batch_size": 1_000, "schedule": "constant", "checkpoint_every": 100}
MEMORY = 50_000_000  # bytes; the history takes a thousandth of it per epoch
SCRATCH = 10_000_000  # bytes: two states of a small model, each with the history


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Train for that long, and compare the state of the process early and late."""
    place = world.folder / "growth"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world.folder / "reference", place)
    change(place, train=SETTINGS)
    outcome = fork(place, "train", before=lambda: _watch(place), limit=1800)
    found = complaints(outcome) + ([f"it ended with {outcome}"] if outcome.status else [])
    early, late = json.loads((place / "early").read_text()), json.loads((place / "late").read_text())
    print(f"after {early['epoch']} epochs: {early}; after {late['epoch']}: {late}", flush=True)
    if late["memory"] - early["memory"] > MEMORY:
        found.append(f"{late['memory'] - early['memory']} bytes of memory more")
    if late["descriptors"] != early["descriptors"]:
        found.append(f"{late['descriptors']} descriptors, before {early['descriptors']}")
    if late["scratch"] > SCRATCH:
        found.append(f"{late['scratch']} bytes of checkpoints")
    if late["seconds"] > 3 * early["seconds"]:
        found.append(f"{late['seconds']} s for the last epochs, before {early['seconds']} s")
    return Counter({"epochs": late["epoch"]}), [f"growth: {line}" for line in found]


def _watch(place: Path) -> None:
    report, times = loop.report, []

    def watching(bar: Any, progress: Any, epochs: int) -> None:
        report(bar, progress, epochs)
        times.append(time.monotonic())
        if progress.epoch in (EPOCHS // 10, EPOCHS):
            seconds = times[-1] - times[-EPOCHS // 20]
            name = "late" if progress.epoch == EPOCHS else "early"
            (place / name).write_text(json.dumps({"epoch": progress.epoch, "seconds": round(seconds, 2), **_state()}))

    loop.report = watching


def _state() -> dict[str, int]:
    memory = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    scratch = [path.stat().st_size for path in Path("data/.checkpoints").rglob("*")]
    return {
        "memory": 1024 * int(memory),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "scratch": sum(scratch),
    }
