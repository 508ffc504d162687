"""Downloads from mirrors that misbehave in every way at random, in turn."""

import os
import random
import shutil
import signal
import time
from collections import Counter

import pytest
import yaml

from tests.campaign.world import ROOT, World, complaints, files, fork
from tests.sources import test_mirrors as web
from tests.sources.published import FILES
from vae.sources import mirrors

ANSWERS = [answer for answer, _ in (*web.LASTING.values(), *web.PASSING.values())]


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Download from two mirrors with up to six misbehaving answers each, the second without any at times."""
    place = world.folder / "downloads"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    bad = {mirror: [rng.choice(ANSWERS) for _ in range(rng.randint(0, 6))] for mirror in "ab"}
    good = rng.random() < 0.5
    with web.Site() as site:
        # In a process of its own, as a process with threads should not be forked.
        site.faults = bad | {"c": []}
        server = os.fork()
        if server == 0:
            site.serve_forever(poll_interval=0.01)
        try:
            addresses = [site.url(mirror) for mirror in ("abc" if good else "ab")]
            values = yaml.safe_load((ROOT / "params.yaml").read_text())
            values["download"] = {"dataset": "mnist", "mirrors": addresses}
            (place / "params.yaml").write_text(yaml.safe_dump(values))
            outcome = fork(place, "download", before=_hurry)
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
    now = {path: content for path, content in files(place).items() if path.startswith("data/raw/") and content}
    found = complaints(outcome)
    if good and outcome.status:
        found.append(f"failed although one mirror is right: {outcome.output}")
    if not {f"data/raw/{name}": content for name, content in FILES.items()}.items() >= now.items():
        found.append(f"wrong files: {sorted(now)}")
    if outcome.status == 0 and len(now) != len(FILES):
        found.append(f"missing files: {sorted(now)}")
    names = [getattr(answer, "__name__", "answer") for answer in (*bad["a"], *bad["b"])]
    return Counter({"downloads from servers that misbehave": 1}), [f"servers, {names}: {line}" for line in found]


def _hurry() -> None:
    patch = pytest.MonkeyPatch()
    web.publish(patch, "mnist", FILES, mirrors=[])
    patch.setattr(mirrors, "TIMEOUT", (5, 0.2))
    patch.setattr(mirrors, "GRACE", 1)
    patch.setattr(time, "sleep", lambda seconds: None)
    patch.setitem(os.environ, "NO_PROXY", "*")
    patch.delitem(os.environ, "MNIST_MIRROR", raising=False)
