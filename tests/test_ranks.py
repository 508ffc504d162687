"""The ranks of a run: their rows, and what they exchange."""

import pytest
import torch

from tests.processes import on_ranks
from vae import ranks
from vae.ranks import Rows

COUNT = 3


def exchanged(path):
    """One of everything that ranks exchange."""
    number = ranks.rank()
    summed = torch.full((2,), float(number))
    ranks.add_up(summed)
    with path.open("a") as calls:
        first = ranks.from_first(lambda: calls.write("called") and {"made by": number})
    return {
        "rows": [ranks.rows(size) for size in (7, 3, 2)],
        "count": (number, ranks.local(), ranks.count(), ranks.on_this_machine()),
        "sum": summed.tolist(),
        "any": [ranks.any_of(number == chosen) for chosen in (0, 2, 5)],
        "gathered": ranks.gather(f"from {number}"),
        "first": first,
        "shared out": [ranks.share_out(lambda item: (item * 10, number), range(items)) for items in (7, 2, 0)],
        "reports": ranks.may_report(),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "calls"
    return on_ranks(COUNT, exchanged, path), path.read_text()


def test_rows_are_shared_evenly_and_in_order(found):
    assert [each["rows"][0] for each in found[0]] == [Rows(0, 2, 7, 1), Rows(2, 4, 7, 1), Rows(4, 7, 7, 1)]
    assert [each["rows"][1] for each in found[0]] == [Rows(number, number + 1, 3, 1) for number in range(COUNT)]
    for size in range(2):
        assert sum(each["rows"][size].weight for each in found[0]) == pytest.approx(1)


def test_fewer_rows_than_ranks_are_computed_by_each_and_count_in_part(found):
    assert [each["rows"][2] for each in found[0]] == [Rows(0, 2, 2, 1 / 3)] * COUNT
    assert Rows(0, 2, 2, 1 / 3).weight == 1 / 3


def test_every_rank_knows_its_place(found):
    assert [each["count"] for each in found[0]] == [(number, number, COUNT, COUNT) for number in range(COUNT)]


def test_sums_flags_and_values_are_the_same_on_all_ranks(found):
    for each in found[0]:
        assert each["sum"] == [3, 3]
        assert each["any"] == [True, True, False]
        assert each["gathered"] == ["from 0", "from 1", "from 2"]


def test_what_the_first_rank_makes_is_made_once(found):
    assert [each["first"] for each in found[0]] == [{"made by": 0}] * COUNT
    assert found[1] == "called"


def test_items_are_computed_once_each_and_come_back_in_order(found):
    for each in found[0]:
        assert each["shared out"] == [[(10 * item, item % COUNT) for item in range(items)] for items in (7, 2, 0)]


def test_one_rank_alone_reports(found):
    assert sum(each["reports"] for each in found[0]) == 1


def test_a_single_process_computes_all_of_it_and_needs_nobody():
    assert not ranks.started()
    with ranks.joined():
        assert (ranks.rank(), ranks.local(), ranks.count(), ranks.on_this_machine()) == (0, 0, 1, 1)
        assert ranks.rows(5) == Rows(0, 5, 5, 1)
        assert ranks.rows(5).slice == slice(0, 5)
        assert ranks.rows(5).weight == 1
        assert ranks.add_up(torch.tensor(2)) == 2
        assert ranks.gather("here") == ["here"]
        assert ranks.from_first(lambda: "made") == "made"
        assert ranks.share_out(lambda item: item + 1, [1, 2]) == [2, 3]
        assert ranks.may_report()
