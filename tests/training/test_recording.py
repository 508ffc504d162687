"""A record of some operations, against the function that was recorded; test_gradients.py records whole models."""

import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vae.training.recording import record

ROOT = Path(__file__).resolve().parents[2]


def targets(module):
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def gradient(x, weight):
    loss = F.silu(x @ weight).square().sum()
    return [loss, *torch.autograd.grad(loss, [weight])]


def test_a_record_computes_the_same_of_other_inputs_and_their_gradients():
    weight = torch.randn(4, 3, requires_grad=True)
    repeated = record(gradient, torch.randn(5, 4), weight)
    for _ in range(2):
        x, other = torch.randn(5, 4), torch.randn(4, 3, requires_grad=True)
        for ours, theirs in zip(repeated(x, other), gradient(x, other), strict=True):
            assert torch.equal(ours, theirs)


def test_numbers_are_drawn_anew_at_each_call():
    def noisy(x):
        return [F.dropout(x, 0.5) + torch.empty(100).normal_()]

    repeated, x = record(noisy, torch.ones(100)), torch.ones(100)
    torch.manual_seed(1)
    ours = [repeated(x)[0] for _ in range(2)]
    torch.manual_seed(1)
    theirs = [noisy(x)[0] for _ in range(2)]
    assert torch.equal(torch.stack(ours), torch.stack(theirs))
    assert not torch.equal(*ours)


def test_what_changes_a_tensor_in_place_does_so_again():
    def in_place(x):
        sums = torch.zeros(2)
        rows = sums.view(1, 2)  # another name of the same memory
        rows.add_(x)
        smallest, place = x.min(dim=1)
        return [sums.mul_(2), smallest, place]

    repeated = record(in_place, torch.zeros(1, 2))
    for _ in range(2):
        assert [tensor.tolist() for tensor in repeated(torch.tensor([[3.0, 1]]))] == [[6, 2], [1], [1]]


def test_an_operation_may_give_nothing():
    def update(x):
        parts = [torch.zeros(2), torch.ones(2)]
        torch._foreach_add_(parts, [x, x])
        return parts

    first, second = record(update, torch.zeros(2))(torch.tensor([3.0, 4]))
    assert [*first.tolist(), *second.tolist()] == [3, 4, 4, 5]


def test_other_tensors_are_part_of_the_record():
    weight, constant = torch.tensor([2.0]), torch.tensor([1.0])
    repeated = record(lambda x: [x * weight + constant, constant], torch.zeros(1))
    assert dict(repeated.named_buffers()).keys() == {"other_0", "other_1"}
    assert repeated(torch.tensor([3.0])) == [7, 1]
    weight.fill_(10)  # a part, not a copy
    assert repeated(torch.tensor([3.0])) == [31, 1]


def test_a_constant_is_copied_anew_for_each_call_to_change():
    repeated = record(lambda x: [torch.tensor([1.0]).add_(x)], torch.zeros(1))
    assert [repeated(torch.tensor([10.0]))[0].item() for _ in range(3)] == [11, 11, 11]


def test_draws_that_nobody_uses_are_made_all_the_same():
    def wasteful(x):
        torch.rand(3)
        return [x + torch.rand(1)]

    repeated, x = record(wasteful, torch.zeros(1)), torch.zeros(1)
    torch.manual_seed(1)
    (ours,) = repeated(x)
    torch.manual_seed(1)
    assert torch.equal(ours, *wasteful(x))


def test_other_names_of_a_tensor_are_no_operations():
    assert targets(record(lambda x: [x.detach().sin()], torch.ones(3))) == [torch.ops.aten.sin.default]


def test_an_output_may_be_an_input():
    x = torch.ones(3)
    (same,) = record(lambda x: [x], torch.zeros(3))(x)
    assert same is x


@pytest.mark.parametrize("read", [torch.Tensor.item, float, bool])
def test_a_value_that_is_read_is_refused(read):
    with pytest.raises(RuntimeError, match=r"aten\.\w+\.default reads a value"):
        record(lambda x: [x * read(x.sum())], torch.ones(3))


def test_a_tensor_is_kept_no_longer_than_the_function_keeps_it():
    def function(x):
        large = x.exp()
        total, kept = large.sum(), weakref.ref(large)
        del large
        assert kept() is None
        return [total]

    record(function, torch.ones(3))


@pytest.mark.slow
def test_a_run_of_recorded_steps_imports_none_of_torchs_compilers():
    code = """
import sys, torch
before = set(sys.modules)
from vae.data.images import Split
from vae.model import make_model
from vae.settings import load_settings
from vae.training.data import Data
from vae.training.loop import train

settings = load_settings("params.yaml")
split = Split(torch.zeros(60, 1, 8, 8, dtype=torch.uint8), torch.zeros(60, dtype=torch.int64))
model = make_model(settings.model, (1, 8, 8), 10)
train(model, Data(split, None, split, True), settings.train.model_copy(update={"epochs": 1, "step": "recorded"}))
print(sorted({"sympy", "torch._dynamo", "torch._inductor", "triton"} & (sys.modules.keys() - before)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
