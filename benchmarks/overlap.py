"""The time saved by sending gradients during the backward pass; to be run by two or more ranks.

    torchrun --nproc-per-node 2 -m benchmarks.overlap 784-1024-1024-64 256 recorded

Steps with the gradients in parts, with all of them in one transfer, and without any transfer take turns, as do
transfers alone. No overlap can make a step shorter than the longer one of the last two.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from benchmarks.measurements import NETWORKS, SHAPE, made_up_images, training
from vae import ranks
from vae.device import set_up
from vae.model import make_model
from vae.training import exchange
from vae.training.step import Step

_PER_EPOCH = 4
_UNLIMITED = 10**12


def make_step(name: str, batch: int, kind: str, part: int) -> Step:
    """A step of some network whose gradients travel in parts of at least `part` numbers; its first is made."""
    exchange.PART = part
    pyro.set_rng_seed(0)
    settings = training(batch, rounds=1000).model_copy(update={"step": kind})
    model = make_model(NETWORKS[name].model, SHAPE, classes=10)
    step = Step(model, made_up_images(batch * _PER_EPOCH, torch.device("cpu")), True, settings)
    step.begin_epoch()
    step(batch)
    return step


def keep(loss: Tensor, means: Tensor, gradients: Any) -> tuple[Tensor, Tensor, Any]:
    """Exchange nothing."""
    return loss, means, gradients


def advance(step: Step, batch: int) -> None:
    """One step, in a new epoch if the last one is over."""
    if step.batch.item() == _PER_EPOCH:
        step.begin_epoch()
    step(batch)


def compare(name: str, batch: int, kind: str, rounds: int) -> dict[str, list[float]]:
    """The milliseconds of each contender in each round."""
    in_parts, at_once, alone = (make_step(name, batch, kind, part) for part in (exchange.PART, *[_UNLIMITED] * 2))
    flat = torch.zeros_like(alone.exchange.flat)
    alone.exchange = keep
    contenders: dict[str, Callable[[], Any]] = {
        f"{len(in_parts.exchange.parts)} parts": lambda: advance(in_parts, batch),
        "one transfer": lambda: advance(at_once, batch),
        "no transfer": lambda: advance(alone, batch),
        f"transfer of {flat.numel() * 4 / 1e6:.1f} MB": lambda: ranks.add_up(flat),
    }
    found: dict[str, list[float]] = {contender: [] for contender in contenders}
    for number in range(rounds):
        for contender in list(contenders)[:: 1 if number % 2 else -1]:
            ranks.any_of(False)
            start = time.perf_counter()
            contenders[contender]()
            found[contender].append(1000 * (time.perf_counter() - start))
    return found


def main(name: str, batch: int, kind: str, rounds: int = 40) -> None:
    """Print medians and quartiles on the first rank."""
    with ranks.joined():
        set_up("cpu")
        found = compare(name, batch, kind, rounds)
        if ranks.rank() == 0:
            print(f"{name}, batch {batch}, {kind}, {ranks.count()} ranks, {torch.get_num_threads()} threads each")
            for contender, milliseconds in found.items():
                low, median, high = statistics.quantiles(milliseconds, n=4)
                print(f"{contender:20} {median:7.1f} ms ({low:.1f} to {high:.1f})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
