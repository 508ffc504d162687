"""System calls that fail, and processes that are killed amid them: at the n-th call on a file of the run."""

import ctypes
import errno
import random
import shutil
import signal
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

from tests.campaign.world import World, fork

SOURCE = Path(__file__).with_name("faults.c")
OPEN, READ, WRITE, SYNC, RENAME, UNLINK, MKDIR = (1 << place for place in range(7))
CALLS = {"open": OPEN, "read": READ, "write": WRITE, "sync": SYNC, "rename": RENAME, "unlink": UNLINK, "mkdir": MKDIR}
FAILURES = {
    "EIO": (errno.EIO, ("open", "read", "write", "sync", "rename", "unlink", "mkdir")),
    "ENOSPC": (errno.ENOSPC, ("write", "sync", "rename", "mkdir")),
    "EDQUOT": (errno.EDQUOT, ("write", "mkdir")),
    "EMFILE": (errno.EMFILE, ("open",)),
    "ENFILE": (errno.ENFILE, ("open",)),
    "EACCES": (errno.EACCES, ("open", "rename", "unlink", "mkdir")),
    "EROFS": (errno.EROFS, ("rename", "unlink", "mkdir")),
    "ESTALE": (errno.ESTALE, ("open", "read", "rename")),
    "SIGKILL": (0, ("write", "sync", "rename", "unlink", "mkdir")),
}
CHANGES = WRITE | SYNC | RENAME | UNLINK | MKDIR


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the library that is loaded with LD_PRELOAD."""
    library = folder / "faults.so"
    command = [compiler(), "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def arm(folder: Path, calls: int, nth: int, number: int, lasting: bool = False) -> None:
    """Arm the library in this process, which was started with it."""
    ctypes.CDLL(None).faults_arm(str(folder).encode(), calls, ctypes.c_long(nth), number, int(lasting))


def seen() -> int:
    """The number of calls since the library was armed in this process."""
    return ctypes.CDLL(None).faults_seen()


def variable(folder: Path, calls: int, nth: int, number: int, lasting: bool = False) -> str:
    """The value of FAULTS that arms the library in a process and in all that it starts."""
    return f"{calls}:{nth}:{number}:{int(lasting)}:{folder}"


def count(world: World, stage: str, calls: int) -> int:
    """The number of such calls in an undisturbed run of a stage."""
    counter = world.folder / "seen"
    place = world.place(stage)

    world.age(stage)
    fork(place, stage, lambda: arm(place, calls, 0, 0), after=lambda: counter.write_text(str(seen())))
    return int(counter.read_text())


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Disturb a stage up to six times in a row, then let it run."""
    stage = world.choose(rng)
    counts: Counter[str] = Counter()
    found: list[str] = []
    leftovers = False
    world.age(stage)
    for _ in range(rng.randint(1, 6)):
        failure = rng.choice(list(FAILURES))
        number, possible = FAILURES[failure]
        name = rng.choice(possible)
        nth = rng.randint(1, max(1, total(world, stage, name)))
        lasting = number != 0 and rng.random() < 0.3
        place = world.place(stage)
        outcome = fork(place, stage, partial(arm, place, CALLS[name], nth, number, lasting))
        counts["failed system calls" if number else "kills at a system call"] += outcome.status != 0
        leftovers = leftovers or number == 0 or name == "unlink"
        complaints = world.after_fault(stage, outcome, 0 if number else signal.SIGKILL, leftovers)
        found += [f"{stage}, {failure} at {name} {nth}{' and later' * lasting}: {line}" for line in complaints]
    found += [f"{stage}, after {failure} at {name} {nth}: {line}" for line in world.settle(stage)]
    return counts, found


_TOTALS: dict[tuple[str, str], int] = {}


def total(world: World, stage: str, name: str) -> int:
    """The number of calls of one name in a stage, counted once."""
    if (stage, name) not in _TOTALS:
        _TOTALS[stage, name] = count(world, stage, CALLS[name])
    return _TOTALS[stage, name]
