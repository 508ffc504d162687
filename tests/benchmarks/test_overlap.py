"""The benchmark of gradients that travel during the backward pass."""

import pytest

from benchmarks import overlap
from tests.processes import on_ranks


@pytest.mark.slow
def test_every_contender_takes_its_turn_in_each_round():
    for found in on_ranks(2, overlap.compare, "784-1024-1024-64", 4, "eager", 2):
        assert list(found) == ["4 parts", "one transfer", "no transfer", "transfer of 15.6 MB"]
        assert all(len(times) == 2 and min(times) > 0 for times in found.values())
