"""Attack the pipeline with faults for as long as is asked for: `python -m tests.campaign --minutes 5 --seed 1`.

Each case injects a fault for real and compares all bytes with those of an undisturbed run, after the stage or DVC has
run once more. Exit status 1 if anything was found.
"""

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.campaign import faults

PARTS = ("kills", "faults", "disks", "settings", "servers", "flips", "offline", "dvc")
LONG = ("growth",)  # only where it is asked for
PRELOADED = {"faults", "offline", "dvc"}


def main() -> None:
    """Run the cases of the chosen parts in turn."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument(
        "--only", nargs="+", choices=PARTS + LONG, default=PARTS, help="the parts to run; by default all"
    )
    parser.add_argument("--out", type=Path, help="a JSON file for the counts")
    arguments = parser.parse_args()
    # The library must be there when the process starts.
    if PRELOADED & set(arguments.only) and "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        if faults.compiler() is None:
            sys.exit(f"error: there is no C compiler (cc), which these parts need: {', '.join(sorted(PRELOADED))}")
        with tempfile.TemporaryDirectory() as folder:
            library = faults.build(Path(folder))
            command = [sys.executable, "-m", "tests.campaign", *sys.argv[1:]]
            sys.exit(os.spawnve(os.P_WAIT, sys.executable, command, {**os.environ, "LD_PRELOAD": str(library)}))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        sys.exit(1 if campaign(Path(folder), arguments) else 0)


def campaign(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Run cases until the time is over, and return what they found."""
    # Only now, as it takes seconds.
    from tests.campaign.world import World, import_everything

    import_everything()
    parts = {name: importlib.import_module(f"tests.campaign.{name}") for name in arguments.only}
    start = time.monotonic()
    world = World.make(folder / "world")
    print(f"seed {arguments.seed}; seconds of each stage: {world.seconds}", flush=True)
    counts: Counter[str] = Counter()
    found: list[str] = []
    spent = dict.fromkeys(parts, 0.0)
    said = time.monotonic()
    # Each part at least once.
    while time.monotonic() - start < 60 * arguments.minutes or not all(spent.values()):
        name = min(spent, key=spent.__getitem__)
        number = counts[f"cases of {name}"]
        begun = time.monotonic()
        more, complaints = parts[name].case(world, random.Random(f"{arguments.seed} {name} {number}"))
        spent[name] += time.monotonic() - begun
        counts += more
        counts[f"cases of {name}"] += 1
        for line in complaints:
            print(f"FOUND in case {number} of {name}: {line}", flush=True)
        found += complaints
        if time.monotonic() - said > 10:
            said = time.monotonic()
            print(f"{said - start:.0f} s: {dict(counts)}; found: {len(found)}", flush=True)
    result = {"seed": arguments.seed, "seconds": round(time.monotonic() - start), "counts": counts, "found": found}
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result) + "\n")
    return found


if __name__ == "__main__":
    main()
