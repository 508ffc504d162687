"""Stages that are killed, or asked to stop, at random moments."""

import os
import random
import signal
import time
from collections import Counter

from tests.campaign.world import World, fork


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Kill or stop a stage up to six times in a row, then let it run."""
    stage = world.choose(rng)
    counts: Counter[str] = Counter()
    found: list[str] = []
    killed = False
    world.age(stage)
    for _ in range(rng.randint(1, 6)):
        number = rng.choice((*[signal.SIGKILL] * 8, signal.SIGTERM, signal.SIGINT))
        moment = rng.uniform(0, 0.9 * world.seconds[stage])

        def strike(process: int, moment: float = moment, number: int = number) -> None:
            time.sleep(moment)
            os.kill(process, number)  # a process that has ended is there until it is waited for

        outcome = fork(world.place(stage), stage, meanwhile=strike)
        killed = killed or number == signal.SIGKILL
        if outcome.status:
            counts["kills" if number == signal.SIGKILL else "signals"] += 1
        complaints = world.after_fault(stage, outcome, number, leftovers=killed)
        found += [f"{stage}, {number.name} after {moment:.3f} s: {line}" for line in complaints]
    found += [f"{stage}, after {number.name} after {moment:.3f} s: {line}" for line in world.settle(stage)]
    return counts, found
