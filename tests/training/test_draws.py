"""The draws of several ranks, made one after the other in this process, against those of a single one."""

import pytest
import torch
from torch.nn import functional as F

from vae.ranks import Rows
from vae.training.draws import OwnRows

SHARES = [Rows(0, 2, 7, 1), Rows(2, 4, 7, 1), Rows(4, 7, 7, 1)]


def on_each_rank(draw):
    """What `draw`, a function of the number of rows, gives on each of the three ranks, and the state that it leaves."""
    drawn, states = [], []
    for rows in SHARES:
        torch.manual_seed(3)
        with OwnRows(rows):
            drawn.append(draw(rows.stop - rows.start))
        states.append(torch.get_rng_state())
    return drawn, states


def alone(draw):
    torch.manual_seed(3)
    return draw(7), torch.get_rng_state()


# The rows are the dimension before the last one of latents, and the first of images; several draws of z come before.
DRAWS = {
    "noise": (lambda rows: torch.empty(rows, 4).normal_(), -2),
    "noise of several draws": (lambda rows: torch.empty(3, rows, 4).normal_(2.0, 0.5), -2),
    "dropout": (lambda rows: F.dropout(torch.ones(rows, 40), 0.3), -2),
    "dropout of several draws": (lambda rows: F.dropout(torch.ones(2, rows, 40), 0.3), -2),
    "dropout of maps": (lambda rows: F.dropout(torch.ones(rows, 2, 5, 6), 0.3), 0),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_ranks_draw_together_what_one_draws_alone_and_end_in_its_state(name):
    draw, dim = DRAWS[name]
    (whole, state), (parts, states) = alone(draw), on_each_rank(draw)
    assert torch.equal(torch.cat(parts, dim), whole)
    assert all(torch.equal(left, state) for left in states)


def test_maps_of_several_draws_are_dropped_as_one_drops_them():
    # A decoder flattens draws and images to one dimension.
    def draw(rows):
        return F.dropout(torch.ones(2 * rows, 2, 5, 6), 0.3).unflatten(0, (2, rows))

    (whole, state), (parts, states) = alone(draw), on_each_rank(draw)
    assert torch.equal(torch.cat(parts, 1), whole)
    assert all(torch.equal(left, state) for left in states)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.empty(5, 4).normal_(),  # of pseudo-inputs, say
        lambda: torch.empty(4).normal_(),
        lambda: F.dropout(torch.ones(5, 4), 0.5),
        lambda: F.dropout(torch.ones(2, 4), 0.5, training=False),
        lambda: torch.rand(2, 4),
    ],
)
def test_what_belongs_to_no_mini_batch_is_drawn_as_usual(draw):
    torch.manual_seed(3)
    expected, state = draw(), torch.get_rng_state()
    torch.manual_seed(3)
    with OwnRows(SHARES[0]):
        found = draw()
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), state)
