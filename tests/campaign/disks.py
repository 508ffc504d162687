"""Stages on a small file system that fills up: a tmpfs in a user and mount namespace of its own."""

import ctypes
import json
import os
import random
import shutil
import traceback
from collections import Counter
from pathlib import Path

from tests.campaign.world import LOCK, World, complaints, differences, files, fork, is_temporary

NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000
REMOUNT = 32
PAGE = 4096


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Run a stage on a disk with room for a part of what it writes, then with room for all."""
    stage = world.choose(rng)
    needed = sum(len(world.reference[path]) // PAGE + 1 for path in world.outputs(stage))
    free = rng.randint(0, needed + 1)
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            found = in_namespace(world, stage, free)
        except BaseException:
            found = 1, [traceback.format_exc()]
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        status, found = json.loads(answer.read())
    os.waitpid(process, 0)
    counts = Counter({"full disks": int(status != 0)})
    return counts, [f"{stage}, a disk with {free} free pages: {line}" for line in found]


def in_namespace(world: World, stage: str, free: int) -> tuple[int, list[str]]:
    """Disturb a stage by a disk with so few free pages; how it ended, and what was found."""
    enter()
    place = world.place(stage)
    mount(place, 1 << 30)
    shutil.copytree(world.folder / "reference", place, dirs_exist_ok=True)
    for path in world.outputs(stage):
        (place / path).unlink()
    (place / LOCK).parent.mkdir(parents=True, exist_ok=True)
    (place / LOCK).touch()
    used = shutil.disk_usage(place).used
    mount(place, used + free * PAGE, REMOUNT)
    outcome = fork(place, stage)
    found = []
    for path in world.outputs(stage):
        if (place / path).exists() and (place / path).read_bytes() != world.reference[path]:
            found.append(f"{path}: half of it")
    found += complaints(outcome)
    found += [f"{path}: left over" for path in files(place) if is_temporary(path)]
    mount(place, 1 << 30, REMOUNT)
    again = fork(place, stage)
    found += [f"the next run: {again}"] if again.status else []
    return outcome.status, found + differences(world.reference, files(place))


def enter() -> None:
    """Give this process a user and mount namespace of its own."""
    user, group = os.getuid(), os.getgid()
    call("unshare", NEW_USER | NEW_MOUNTS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def mount(place: Path, size: int, flags: int = 0) -> None:
    """Mount a tmpfs of so many bytes, or change the size of one."""
    call("mount", b"none", str(place).encode(), b"tmpfs", ctypes.c_ulong(flags), f"size={size}".encode())


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library that returns 0 or sets errno."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
