"""Stages on a small file system that fills up: a tmpfs in a mount namespace of its own."""

import random
import shutil
from collections import Counter

from tests.campaign.namespaces import MOUNTS, REMOUNT, USER, mount, within
from tests.campaign.world import (
    BY_EPOCH,
    LOCK,
    World,
    complaints,
    differences,
    files,
    fork,
    is_temporary,
    is_whole,
)

PAGE = 4096
LARGE = 1 << 30


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Run a stage on a disk with room for a part of what it writes, then with room for all."""
    stage = world.choose(rng)
    needed = sum(len(world.reference[path]) // PAGE + 1 for path in world.outputs(stage))
    free = rng.randint(0, needed + 1)
    answer, error = within(USER | MOUNTS, lambda: _fill(world, stage, free))
    status, found = answer or (1, [error])
    return Counter({"full disks": int(status != 0)}), [f"{stage}, {free} free pages: {line}" for line in found]


def _fill(world: World, stage: str, free: int) -> tuple[int, list[str]]:
    """Run a stage on a disk with so few free pages, and again with more; how it ended, and what was found."""
    place = world.place(stage)
    mount(place, LARGE)
    shutil.copytree(world.folder / "reference", place, dirs_exist_ok=True)
    for path in world.outputs(stage):
        (place / path).unlink()
    (place / LOCK).touch()
    mount(place, shutil.disk_usage(place).used + free * PAGE, REMOUNT)
    outcome = fork(place, stage)
    found = complaints(outcome)
    for path, content in files(place).items():
        if path.startswith("data/.checkpoints/") and not is_temporary(path):
            continue  # what a training that failed has saved
        known = content == world.reference.get(path) or (path in BY_EPOCH and is_whole(path, content))
        if is_temporary(path) or not known:
            found.append(f"{path}: left over, or a part of it")
    mount(place, LARGE, REMOUNT)
    again = fork(place, stage)
    found += [f"the next run: {again}"] if again.status else []
    return outcome.status, found + differences(world.expected(stage), files(place))
