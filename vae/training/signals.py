"""Collecting the signals that ask a run to stop after its step, or to finish after its epoch."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STOP = (signal.SIGINT, signal.SIGTERM)
FINISH = (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()  # Windows has none


@contextmanager
def collected(numbers: Sequence[int] = STOP) -> Iterator[list[int]]:
    """Collect these signals in a list instead of being stopped by them; none arrive outside the main thread."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = [signal.signal(number, lambda caught, _: received.append(caught)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
