"""Wrong bits in the files that a stage reads: an error that says so, or no harm; never a traceback."""

import random
from collections import Counter

from tests.campaign.world import PIPELINE, World, complaints, fork


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Flip up to eight bits of an input, run the stage, mend the input, and run the stage again."""
    stage = world.choose(rng)
    chosen = rng.choice(inputs(world, stage))
    place = world.place(stage) / chosen
    content = bytearray(world.reference[chosen])
    # Most are in the first bytes, where the formats have their headers.
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(min(len(content), rng.choice((64, 1024, len(content)))))] ^= 1 << rng.randrange(8)
    place.write_bytes(content)
    outcome = fork(world.place(stage), stage)
    found = complaints(outcome)
    place.write_bytes(world.reference[chosen])
    found += world.settle(stage)
    counts = Counter({"flips": 1, "flips that were noticed": int(outcome.status != 0)})
    return counts, [f"{stage}, flips in {chosen}: {line}" for line in found]


def inputs(world: World, stage: str) -> list[str]:
    """The files that a stage reads, params.yaml among them."""
    deps = PIPELINE[stage]["deps"]
    read = [path for path in world.reference if any(path == dep or path.startswith(f"{dep}/") for dep in deps)]
    return ["params.yaml", *(path for path in read if not path.endswith("/"))]
