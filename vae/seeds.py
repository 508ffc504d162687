"""Seeds: one of a section's settings, from which each purpose derives a stream of random numbers of its own."""

import zlib

import numpy as np


def derive(seed: int, purpose: str) -> int:
    """A seed below 2^32 for one purpose, by numpy's `SeedSequence` over `seed` and the purpose's name.

    Purposes are named "stage.what" in lower case, as the sections of several stages hold the same seed by default: what
    is drawn for one must not repeat what is drawn for another.
    """
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)[0])
