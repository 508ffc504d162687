"""Every stage but the download in a network namespace of its own, which reaches nothing."""

import os
import random
import shutil
import socket
from collections import Counter

from tests.campaign.namespaces import NETWORK, USER, within
from tests.campaign.world import PIPELINE, World, complaints, differences, files, fork


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Run them on the downloaded files alone."""
    found, error = within(USER | NETWORK, lambda: _run(world))
    return Counter({"runs without network": 1}), [error] if error else found


def _run(world: World) -> list[str]:
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        raise RuntimeError("this process has a network")
    place, attempts = world.folder / "offline", world.folder / "connections"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world.folder / "reference/data/raw", place / "data/raw")
    shutil.copy(world.folder / "reference/params.yaml", place)
    found = []
    for stage in PIPELINE:
        if stage != "download":
            outcome = fork(place, stage, before=lambda: os.environ.update(CONNECTIONS=str(attempts)))
            found += [f"{stage}: {line}" for line in complaints(outcome)]
    found += differences(world.reference, files(place))
    return found + ([f"attempts to connect: {attempts.read_text()}"] if attempts.exists() else [])
