"""Capture work on a GPU as a CUDA graph, after making sure that it can be captured."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from vae.errors import WorkError, memory_reason

_WARM_UP_RUNS = 3


class WaitsForDevice(Exception):
    """The work reads a value from the GPU, so it cannot be captured; the message is torch's, in one line."""


def capture(
    run: Callable[[], None], state: Sequence[Tensor] = (), pool: Any = None, times: int = 1
) -> torch.cuda.CUDAGraph:
    """Capture what `run` does that many `times` in a row.

    `state`, the tensors that it writes, and the random state are left unchanged.
    `pool` is the memory of another graph to share; the two must not be replayed at the same time.

    Raises:
        WaitsForDevice: `run` waits for the device; `state` and the random state are unchanged.
        WorkError: the capture itself failed, after which this process can no longer use the GPU's random numbers.
    """
    stream = _stream()
    _warm_up(run, state, stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            for _ in range(times):
                run()
    except RuntimeError as error:
        if memory_reason(error):
            raise
        raise WorkError(f"the CUDA graph's capture failed ({_first(error)}); set train.step to eager") from error
    return graph


def _first(error: BaseException) -> str:
    """In one line, what went wrong first: ending a capture that failed raises an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


def clear_caches(module: nn.Module) -> None:
    """Clear the caches of Pyro's transforms, which keep a step's autograd graph and its memory alive."""
    for part in module.modules():
        for name, value in vars(part).items():
            if name == "_cached_x_y":
                part._cached_x_y = None, None
            elif name.startswith("_cache") and isinstance(value, Tensor):
                setattr(part, name, None)


@cache
def _stream() -> torch.cuda.Stream:
    # One for all captures: graphs that share memory, and their warm-ups, must use the same stream.
    return torch.cuda.Stream()


def _warm_up(run: Callable[[], None], state: Sequence[Tensor], stream: torch.cuda.Stream) -> None:
    random_state = torch.cuda.get_rng_state()
    before = [tensor.detach().clone() for tensor in state]
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            for number in range(_WARM_UP_RUNS):
                # The last run detects waits, as a capture cannot be abandoned safely once it has begun.
                with _waiting_refused() if number == _WARM_UP_RUNS - 1 else nullcontext():
                    run()
                _restore(state, before)
    finally:
        torch.cuda.current_stream().wait_stream(stream)
        _restore(state, before)
        torch.cuda.set_rng_state(random_state)


def _restore(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.detach().copy_(value)


@contextmanager
def _waiting_refused() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode")
            torch.cuda.set_sync_debug_mode("error")
        yield
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise WaitsForDevice(str(error).splitlines()[0]) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)
