"""Collecting the signals that ask a run to stop until a step is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def collected() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of being stopped by them; none arrive outside the main thread."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = [signal.signal(number, lambda caught, _: received.append(caught)) for number in NUMBERS]
    try:
        yield received
    finally:
        for number, handler in zip(NUMBERS, before, strict=True):
            signal.signal(number, handler)
