"""How a run computes: threads, processes, and what `auto` means on its machine. All of it changes results by rounding.

A checkpoint does not depend on these, so that a run can be resumed elsewhere. It is then computed as it was begun, as
far as the machine allows, and what differs is named.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vae import ranks
from vae.identity import machine
from vae.settings import Train
from vae.training import checkpoints
from vae.training.choices import resolved
from vae.training.gradients import compiler, compiler_version


def conditions(settings: Train, images: int, device: torch.device) -> dict[str, Any]:
    """How a run with these settings computes here, by name; the values can be compared and written as JSON."""
    chosen = resolved(settings, images, device)
    return {
        "machine": machine(device),
        "processes": ranks.count(),
        "threads": torch.get_num_threads(),
        "precision": chosen.precision,
        "step": chosen.step,
        **(compiler_version() if chosen.step == "compiled" else {}),
    }


def taken_over(folder: Path, settings: Train, images: int, device: torch.device) -> tuple[Train, dict[str, Any]]:
    """The settings and conditions of a new run, or of the one interrupted in `folder` as far as possible here.

    The first rank says what differs, and writes the conditions to the folder.
    """
    before = ranks.from_first(lambda: checkpoints.conditions(folder))
    default = conditions(settings, images, device)
    settings = as_begun(settings, images, device, before or {})
    now = conditions(settings, images, device)
    if ranks.rank() == 0:
        if before:
            say_what_differs(before, default, now)
        checkpoints.write_conditions(folder, now)
    return settings, now


def as_begun(settings: Train, images: int, device: torch.device, before: Mapping[str, Any]) -> Train:
    """Set the number of threads, and return settings, so that a run continues as it was begun under `before`.

    With another number of processes the number of threads stays: sums are split in other ways already.
    """
    here = conditions(settings, images, device)
    if here["processes"] == before.get("processes") and _is_count(before.get("threads")):
        torch.set_num_threads(before["threads"])
    possible = {
        "precision": ("float32", "bfloat16"),
        "step": ("eager", "recorded", *(["compiled"] if compiler() else [])) if device.type == "cpu" else (),
    }
    taken = {
        name: before[name]
        for name, values in possible.items()
        if getattr(settings, name) == "auto" and before.get(name) in values and before[name] != here[name]
    }
    return settings.model_copy(update=taken)


def say_what_differs(before: Mapping[str, Any], default: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Print which conditions are those of the interrupted run instead of the usual ones here, and which cannot be."""
    if taken := [f"{name} {now[name]} (here {default[name]})" for name in default if now.get(name) != default[name]]:
        print(f"resuming as the run was begun: {', '.join(taken)}", flush=True)
    if different := checkpoints.differences(before, now):
        print(f"resuming with different {different}: the result differs by rounding from an uninterrupted run's")


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 1024
