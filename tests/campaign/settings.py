"""Hostile settings: each is read, or refused in a few lines; a share of them by a whole stage."""

import copy
import random
import time
from collections import Counter
from typing import Any

import yaml

from tests.campaign.world import PIPELINE, ROOT, SETTINGS, World, complaints, fork
from vae.errors import InputError
from vae.settings import parse_settings, parse_yaml

TEXT = (ROOT / "params.yaml").read_text()
VALUES = yaml.safe_load(TEXT)
AT_ONCE = 200  # files of settings per case
NUMBERS = (0, -1, 1, 2, 10**6, 2**31, 2**63, -(2**63), 10**23, 10**400, 0.5, -0.0, 1e-320, 1e308, 1e38)
OTHERS = (
    *(float("inf"), float("-inf"), float("nan"), None, True, False, "", " ", "\0", "\x1b[31m", "\ud800", "é" * 10_000),
    *("1e3", "0x10", "010", "1_000", "1:30", "yes", "null", "~", "../../etc/passwd", "https://user:secret@host/?a=b"),
    *([], [[]], [None], {}, {"a": 1}, {1: 2}, {None: None}, [1] * 2_000, "x" * 90_000, b"\xff", 3 + 0j),
)
PIECES = (
    *("\t", "\0", ":", "- ", "[", "]", "{", "}", "&a ", "*a", "!!python/object/apply:os.system [true]", "!!binary a"),
    *("<<: *a\n", "---\n", "...\n", "%YAML 9\n", "? ", "| \n", "> \n", "'", '"', "\ufeff", "\u2028", "\x85", "#"),
    *("train:\n", "!!set {a}", "!!timestamp 2001-99-99", "!!int x", "!!float y", "0o17", "[" * 500, "é", "\\ud800"),
)


def case(world: World, rng: random.Random) -> tuple[Counter[str], list[str]]:
    """Read many files of hostile settings, and run a stage on one of them that is refused, and one that is not."""
    found: list[str] = []
    counts: Counter[str] = Counter()
    refused = accepted = None
    for _ in range(AT_ONCE):
        source = rng.choice((values, text))(rng)
        start = time.monotonic()
        try:
            values_read = parse_yaml(source, "params.yaml") if isinstance(source, str | bytes) else source
            settings = parse_settings(values_read, "params.yaml")
        except InputError as error:
            refused = source
            counts["settings refused"] += 1
            lines = str(error).splitlines()
            if len(lines) > 21 or max(map(len, lines)) > 3000:
                found.append(f"a message of {len(lines)} lines, {len(str(error))} characters: {str(error)[:500]}")
            if "secret" in str(error):
                found.append(f"a secret is shown: {str(error)[:500]}")
            if not all(line.isprintable() for line in lines):
                found.append(f"control characters: {str(error)[:500]!r}")
        except Exception as error:
            found.append(f"{type(error).__name__}: {str(error)[:200]} from {str(source)[:1000]!r}")
        else:
            accepted = settings
            counts["settings accepted"] += 1
        if time.monotonic() - start > 5:
            found.append(f"{time.monotonic() - start:.0f} s to read {str(source)[:300]!r}")
        counts["settings"] += 1
    if refused is not None:
        counts["settings refused by a stage"] += 1
        found += _run(world, rng, refused, status=2)
    if accepted is not None:
        counts["settings that a stage ran on"] += 1
        found += _run(world, rng, _small(accepted.model_dump()), status=None)
    return counts, [f"settings: {line}" for line in found]


def values(rng: random.Random) -> dict[str, Any]:
    """The project's settings with up to five values replaced, removed, added or moved."""
    changed = copy.deepcopy(VALUES)
    for _ in range(rng.randint(1, 5)):
        section = rng.choice(list(changed)) if changed else "train"
        keys = changed.get(section)
        value = copy.deepcopy(
            rng.choice((*NUMBERS, *OTHERS, rng.randrange(-5, 2000), rng.uniform(-1, 2), rng.gauss(0, 1e6)))
        )
        kind = rng.randrange(10)
        if kind == 0:
            changed[section] = value
        elif kind == 1:
            changed.pop(section, None)
        elif kind == 2 or not isinstance(keys, dict) or not keys:
            changed[
                rng.choice(("trian", "", 3, None, "a.b", "x" * 5000, "\x1b", value if isinstance(value, str) else 1))
            ] = value
        elif kind == 3:
            keys.pop(rng.choice(list(keys)))
        elif kind == 4:
            keys[rng.choice(("epoch", "", 7, None, "a.b", "x" * 5000, "\n", "\ud800"))] = value
        elif kind == 5:
            other = rng.choice(list(keys))
            keys[other] = [keys[other], value]
        else:
            keys[rng.choice(list(keys))] = value
    return changed


def text(rng: random.Random) -> str | bytes:
    """The text of the project's settings with pieces put in, cut out or repeated, or wrong bytes."""
    changed = TEXT
    for _ in range(rng.randint(1, 4)):
        place, end = sorted(rng.randrange(len(changed) + 1) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0:
            changed = changed[:place] + rng.choice(PIECES) + changed[place:]
        elif kind == 1:
            changed = changed[:place] + changed[min(end, place + rng.randint(1, 30)) :]
        elif kind == 2:
            changed = changed[:place] + changed[place : place + 50] * rng.randint(1, 5) + changed[place:]
        elif kind == 3:
            lines = changed.splitlines(keepends=True)
            rng.shuffle(lines)
            changed = "".join(lines)[: 20 * len(TEXT)]
        else:
            changed = changed[:place]
        changed = changed or "\n"
    if rng.random() < 0.2:
        wrong = bytearray(changed.encode("utf-8", "surrogatepass"))
        for _ in range(rng.randint(1, 20)):
            wrong[rng.randrange(len(wrong))] = rng.randrange(256)
        return bytes(wrong)
    return changed


def _small(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings, but for those that decide how long the stages take."""
    return {section: keys | SETTINGS[section] for section, keys in settings.items()}


def _run(world: World, rng: random.Random, source: Any, status: int | None) -> list[str]:
    stage = rng.choice([name for name in PIPELINE if name != "plot"])
    place = world.place(stage) / "params.yaml"
    if isinstance(source, str):
        source = source.encode("utf-8", "surrogatepass")
    try:
        place.write_bytes(source if isinstance(source, bytes) else yaml.dump(source, sort_keys=False).encode())
    except (yaml.YAMLError, UnicodeEncodeError):
        return []  # no file can hold these values
    outcome = fork(world.place(stage), stage)
    found = complaints(outcome)
    if status is not None and outcome.status != status and place.stat().st_size < 100_000:
        found.append(f"exit status {outcome.status}: {outcome.output[:500]}")
    place.write_bytes(world.reference["params.yaml"])
    return [f"{stage}: {line}" for line in found + world.settle(stage)]
