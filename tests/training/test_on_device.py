"""A step stays on its device: what a GPU needs, seen on a machine without one."""

import collections
from contextlib import nullcontext
from itertools import chain

import pytest
import torch
import yaml

from benchmarks.measurements import made_up_images, symmetric, training
from tests.conftest import ROOT
from tests.model import test_family
from tests.training.operations import NoCopies, NoReads, Operations
from vae.data.images import Split
from vae.model import kernels, make_model
from vae.settings import parse_settings
from vae.training import validation
from vae.training.initialization import initialize
from vae.training.step import Step

N, CLASSES = test_family.N, test_family.CLASSES
FAMILY = pytest.mark.parametrize("choice", test_family.DESIGN, ids=lambda choice: "-".join(choice.values()))
PRECISIONS = ("float32", "bfloat16")  # the CPU takes tf32 for float32

parse = test_family.parse


@pytest.fixture
def make_step(lean, parse, digits, monkeypatch):
    """Give a function: a step of a combination of parts on 16 digits, on a device."""
    monkeypatch.setattr(kernels, "_LARGE", 0)  # so that the small products of bfloat16 count as large

    def make(choice, device="cpu", **train):
        settings = parse(choice)
        images, labels = digits[:N], torch.arange(N) % CLASSES
        model = make_model(settings.model, tuple(images.shape[1:]), CLASSES)
        initialize(model, images)
        binarize = settings.prepare.binarization == "dynamic"
        step_settings = settings.train.model_copy(update=train)
        return Step(model.to(device), images.to(device), binarize, step_settings, labels.to(device))

    return make


# --- Nothing waits for the device


@pytest.mark.slow
@FAMILY
def test_a_step_reads_no_value_on_the_host(make_step, choice):
    # Fused Adam on the CPU reads its rate below the dispatcher, where these modes do not look: rightly, as on CUDA
    # the kernel takes the rate from the device.
    for precision in PRECISIONS:
        step = make_step(choice, precision=precision, gradient_clip=5, ema_decay=0.9, kl_warmup_epochs=2)
        step.begin_epoch()
        step(N)
        with NoReads(), NoCopies():
            step.begin_epoch()
            step(N)


MASK = torch.tensor([True, False])


def assign_through_a_mask(x):
    # Several values: one alone is filled in without a look at the mask.
    torch.stack([x, x])[MASK] = x


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: bool(x[0]),
        lambda x: float(x[0]),
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.nonzero,
        torch.unique,
        lambda x: x[MASK],
        lambda x: x[MASK.byte()],
        assign_through_a_mask,
        lambda x: x.masked_select(MASK),
        lambda x: torch.bincount(x.long()),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x + torch.tensor(1.0),
        lambda x: torch.equal(x, x),
    ],
)
@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
def test_reads_would_be_seen(read):
    with pytest.raises(AssertionError, match="waits for the device"), NoReads(), NoCopies():
        read(torch.ones(2))


def test_one_hot_is_exempt_as_it_reads_on_the_cpu_alone():
    with NoReads(), NoCopies():
        torch.nn.functional.one_hot(torch.zeros(2, dtype=torch.int64), 3)
        with pytest.raises(AssertionError, match="waits for the device"):
            torch.ones(()).item()


# --- No tensor of the CPU meets one of the device


@pytest.fixture
def meta(monkeypatch):
    """The device whose tensors have no values; it has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    return "meta"


@FAMILY
def test_a_step_runs_wholly_on_the_meta_device(make_step, meta, choice, monkeypatch):
    updated = []
    # It has no kernel for `meta`.
    monkeypatch.setattr(torch, "_fused_adam_", lambda *lists, lr, **_: updated.extend([lr, *chain(*lists)]))
    step = make_step(choice, meta, ema_decay=0.9, kl_warmup_epochs=2)
    step.begin_epoch()
    step(N)
    tensors = [*updated, *step.tensors().values()]
    assert len(updated) > 3 * len(step.parameters)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@FAMILY
def test_validation_runs_wholly_on_the_meta_device(make_step, meta, choice):
    step = make_step(choice, meta)
    totals = validation.sum_terms(step.model, Split(step.images, torch.zeros(N, dtype=torch.int64, device="meta")), 0)
    assert totals.device.type == "meta"
    assert totals.shape == (2,)


# --- What the fused update asks for


@FAMILY
def test_every_gradient_has_its_parameters_strides_and_dtype(make_step, choice, monkeypatch):
    for precision in PRECISIONS:
        step = make_step(choice, precision=precision)
        gradients = []
        monkeypatch.setattr(step, "_update", gradients.extend)
        step.begin_epoch()
        step(N)
        assert len(gradients) == len(step.parameters)
        for gradient, parameter in zip(gradients, step.parameters, strict=True):
            assert gradient.stride() == parameter.stride()
            assert gradient.dtype == parameter.dtype == torch.float32
        assert len({gradient.data_ptr() for gradient in gradients}) == len(gradients)


# --- A budget of operations


def operations(model, train):
    images = made_up_images(2 * train.batch_size, torch.device("cpu"))
    step = Step(make_model(model, tuple(images.shape[1:]), CLASSES), images, True, train)
    step.begin_epoch()
    step(train.batch_size)
    with Operations() as counted:
        step(train.batch_size)
    return counted.names


@pytest.mark.parametrize(("network", "most"), [("textbook", 90), ("params.yaml", 380)])
def test_a_step_keeps_its_budget_of_operations(lean, network, most):
    """Each is a kernel on a GPU, where small kernels are most of a step's time. Lower the budget where you can."""
    if network == "textbook":
        names = operations(symmetric(50, [400], "softplus"), training(256, rounds=2))
    else:
        settings = parse_settings(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")
        names = operations(settings.model, settings.train)
    assert len(names) <= most, collections.Counter(names).most_common()
