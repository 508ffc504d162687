"""The processes that share one run, called ranks: which they are, what each computes, and what they exchange.

They are started by torch's launcher (`torchrun`), one or several on each machine. Without it there is a single process,
and no function here communicates.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vae import launcher
from vae.errors import LostRank, printable

# Seconds after which a rank that does not answer is given up; above those of a slow disk or a compiler on one of them.
TIMEOUT = 180
_GRACE = 3  # seconds for the other ranks to notice too, and for a launcher that knows more to end this one

# Names the file that tells this machine's launcher that a rank has printed an error.
REPORT = "VAE_RANKS_REPORT"

Item, Value = TypeVar("Item"), TypeVar("Value")


class Rows(NamedTuple):
    """The rows of a mini-batch that one rank computes: `start` up to `stop` of `whole`.

    If there are fewer rows than ranks, each rank computes all of them, and they `count` as a share of themselves.
    """

    start: int
    stop: int
    whole: int
    count: float

    @property
    def slice(self) -> slice:
        """The rows as an index."""
        return slice(self.start, self.stop)

    @property
    def weight(self) -> float:
        """What a mean over these rows contributes to the mean over the mini-batch; 1 in total over the ranks."""
        return self.count * (self.stop - self.start) / self.whole


def started() -> bool:
    """Whether a launcher started this process as one of the ranks of a run."""
    return launcher.rank() is not None


@contextmanager
def joined() -> Iterator[None]:
    """Connect this process with the other ranks inside the block, if a launcher started several."""
    if not started() or os.environ["WORLD_SIZE"] == "1":
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local() % torch.cuda.device_count())
    with _reaching_others():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=TIMEOUT))
    yield
    # Not after an error: a rank that waits for the others could not leave.
    dist.destroy_process_group()


def count() -> int:
    """The number of ranks."""
    return dist.get_world_size() if _connected() else 1


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process among the ranks of all machines, from 0; the first one writes and prints."""
    return dist.get_rank() if _connected() else int(os.environ["RANK"]) if started() else 0


def local() -> int:
    """The number of this process among the ranks of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if started() else 0


def on_this_machine() -> int:
    """The number of ranks that share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if started() else 1


def rows(size: int) -> Rows:
    """The rows of a mini-batch of `size` that this rank computes; the ranks' numbers differ by one at most."""
    if size < count():
        return Rows(0, size, size, 1 / count())
    start, stop = (size * number // count() for number in (rank(), rank() + 1))
    return Rows(start, stop, size, 1)


def add_up(values: Tensor) -> Tensor:
    """Replace a tensor by its sum over the ranks, in place; all of them receive the same bytes."""
    if count() > 1:
        with _reaching_others():
            dist.all_reduce(values)
    return values


def start_adding_up(values: Tensor) -> Callable[[], None]:
    """Start what `add_up` does, which then runs beside this process's work, and return what waits for its end."""
    with _reaching_others():
        sum_of_ranks = dist.all_reduce(values, async_op=True)

    def wait() -> None:
        with _reaching_others():
            sum_of_ranks.wait()

    return wait


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any of the ranks."""
    return bool(add_up(torch.tensor(int(flag))))


def gather(value: Value) -> list[Value]:
    """The values of all ranks, in their order."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    with _reaching_others():
        dist.all_gather_object(values, value)
    return values


def from_first(function: Callable[[], Value]) -> Value:
    """What the function returns on the first rank, which alone calls it."""
    if count() == 1:
        return function()
    values = [function() if rank() == 0 else None]
    with _reaching_others():
        dist.broadcast_object_list(values)
    return values[0]


def share_out(function: Callable[[Item], Value], items: Sequence[Item]) -> list[Value]:
    """The function's values at all items, in their order, each computed by one of the ranks."""
    own = [function(item) for item in items[rank() :: count()]]
    parts = gather(own)
    return [parts[number % count()][number // count()] for number in range(len(items))]


def may_report() -> bool:
    """Whether this rank should print its error: only the first that asks does, and the others end in silence.

    Rank 0 goes first, so that a message about what all of them meet does not seem to blame another one.
    """
    if rank() > 0:
        time.sleep(_GRACE / 2)
    if REPORT in os.environ:
        with suppress(FileExistsError):
            Path(os.environ[REPORT]).touch(exist_ok=False)
            return True
        return False
    if not _connected():
        return rank() == 0
    own = str(rank()).encode()
    first = _in_time(lambda: _store().compare_set("report", "", own.decode()))
    # If the store's machine is out of reach there is one message on each of the others.
    return local() == 0 if first is None else first == own


def explained(error: LostRank) -> str:
    """The message of an error with the numbers of the ranks that are missing, for which this waits a moment.

    A launcher that saw one of them end stops this process meanwhile, and says more.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not _connected():
        return f"the ranks cannot reach each other ({printable(str(error))})"
    missing = _in_time(_silent_ranks)
    who = f"rank {' and '.join(map(str, missing))} of {count()}" if missing else "the other ranks"
    return f"lost contact with {who}: ended, hanging or cut off ({printable(str(error))})"


@contextmanager
def _reaching_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise LostRank(re.sub(r"^\[\S+\] ", "", reason)) from error  # without the line of the library's code


def _silent_ranks() -> list[int]:
    """The ranks that do not notice within a moment that others are missing."""
    _store().set(f"alive {rank()}", "")
    time.sleep(_GRACE)
    return [number for number in range(count()) if not _store().check([f"alive {number}"])]


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()


def _in_time(ask: Callable[[], Value]) -> Value | None:
    """What the function returns; None if it fails or takes long, as the store waits for a lost machine forever."""
    answers: list[Value] = []

    def answer() -> None:
        with suppress(RuntimeError):
            answers.append(ask())

    asking = threading.Thread(target=answer, daemon=True)
    asking.start()
    asking.join(2 * _GRACE)
    return answers[0] if answers else None
