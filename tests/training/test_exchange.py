"""What ranks exchange in a step: how gradients are cut into parts, and when each starts to travel."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.processes import on_ranks
from tests.training.test_gradients import needs_compiler
from vae import ranks
from vae.training import exchange
from vae.training.exchange import Exchange, cut
from vae.training.gradients import Inputs, by_programs, compiled, recorded


@pytest.fixture
def part(monkeypatch):
    """A part's least size, small enough for the tests' networks."""
    monkeypatch.setattr(exchange, "PART", 400)
    return exchange.PART


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([100, 200], [range(2)]),
        ([399, 1300], [range(2)]),
        ([1300, 399], [range(2)]),
        ([1199, 400], [range(2)]),
        ([1200, 400], [range(1, 2), range(1)]),
        ([900, 100, 300, 5, 400, 1], [range(4, 6), range(1, 4), range(1)]),
        ([900, 100, 300, 400], [range(3, 4), range(1, 3), range(1)]),
    ],
)
def test_gradients_are_cut_from_the_last_on_into_parts_that_are_large_enough(part, sizes, parts):
    assert cut(sizes) == parts


def test_a_gpu_sends_all_at_once(part):
    parameters = [torch.zeros(900, device="meta") for _ in range(3)]
    assert (Exchange(parameters).parts, Exchange(parameters).early) == ([range(3)], [])


class Events(TorchDispatchMode):
    """Note matrix products, and the sums over ranks that start in between."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.seen = []
        monkeypatch.setattr(ranks, "start_adding_up", lambda values: self.seen.append(("sum", len(values))) or wait)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.seen.append(("product", None))
        return function(*args, **(kwargs or {}))


def wait():
    pass


@pytest.fixture
def case(lean, make_model, make_settings, digits, part):
    """A model, settings, a mini-batch and an exchange in several parts."""
    torch.manual_seed(0)
    model = make_model(encoder_widths=[20, 20], decoder_widths=[20, 20])
    found = Exchange(list(model.parameters()))
    assert len(found.parts) > 2
    return model, make_settings().train, Inputs(digits[:8].float() / 255, None, 1.0), found


@pytest.mark.parametrize("kind", ["eager", "recorded"])
def test_a_part_travels_while_the_backward_pass_goes_on(case, monkeypatch, kind):
    model, settings, inputs, parts = case
    function = by_programs(model, settings, parts) if kind == "eager" else recorded(*case)
    expected = by_programs(model, settings)
    for _ in range(2):
        torch.manual_seed(1)
        with Events(monkeypatch) as events:
            result = function(inputs)
        assert [size for what, size in events.seen if what == "sum"] == [len(flat) for flat in parts.flats[:-1]]
        # Each part is on its way before the last product of the backward pass, which makes a gradient of the encoder.
        assert events.seen[-1] == ("product", None)
        torch.manual_seed(1)
        unsplit = expected(inputs).gradients
        *_, gradients = parts(result.loss, torch.zeros(2), result.gradients)
        assert all(torch.equal(one, other) for one, other in zip(gradients, unsplit, strict=True))


@needs_compiler
@pytest.mark.slow
def test_programs_of_a_compiled_step_hand_their_gradients_over(case, monkeypatch):
    model, settings, inputs, parts = case
    function, plain = compiled(*case), by_programs(model, settings)
    for _ in range(2):
        torch.manual_seed(1)
        with Events(monkeypatch) as events:
            result = function(inputs)
        assert [size for what, size in events.seen if what == "sum"] == [len(flat) for flat in parts.flats[:-1]]
        torch.manual_seed(1)
        *_, gradients = parts(result.loss, torch.zeros(2), result.gradients)
        for one, other in zip(gradients, plain(inputs).gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)  # as fused operations round differently


def test_a_gradient_that_no_operation_makes_travels_with_the_last_part(part, monkeypatch):
    parameters = [torch.zeros(size) for size in (800, 500, 300)]
    found = Exchange(parameters)
    found.take(1, torch.full((500,), 2.0))
    gradients = [torch.full_like(parameter, number) for number, parameter in enumerate(parameters, 1)]
    assert not found.under_way
    loss, means, sums = found(torch.tensor(5.0), torch.ones(2), gradients)
    assert (loss.item(), means.tolist()) == (5, [1, 1])
    assert all(torch.equal(one, other) for one, other in zip(sums, gradients, strict=True))


def summed():
    """Two steps of an exchange in parts, the second with a rank that was asked to stop."""
    exchange.PART = 250
    found, steps = Exchange([torch.zeros(500), torch.zeros(10, 60)]), []
    for step in range(2):
        own = float(ranks.rank() + 10 * step)
        found.asked.fill_(step * ranks.rank())
        gradients = [torch.full((500,), own), torch.full((10, 60), 2 * own)]
        found.take(1, gradients[1])
        loss, means, sums = found(torch.tensor(own), torch.tensor([1.0, own]), gradients)
        steps.append([loss.item(), *means.tolist(), *(each.unique().tolist() for each in sums), found.told.item()])
    return steps


@pytest.mark.slow
def test_sums_and_flags_over_ranks_are_those_of_all_parts():
    assert on_ranks(2, summed) == [[[1, 2, 1, [1], [2], 0], [21, 2, 21, [21], [42], 1]]] * 2
