"""A step stays on its device: what a GPU needs, seen on a machine without one."""

import collections
from contextlib import nullcontext
from itertools import chain

import pytest
import torch
import yaml

from benchmarks.measurements import made_up_images, symmetric, training
from tests.conftest import ROOT
from tests.fake_cuda import autocast
from tests.model import test_family
from tests.training.operations import NoCopies, NoReads, Operations
from vae.data.images import Split, pixels
from vae.model import kernels, make_model
from vae.model.objectives import OBJECTIVES
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
        dropout = 0 if choice["objective"] == "dreg" else 0.1
        parts = settings.model.model_copy(update={"dropout": dropout, "clip_log_variance": True})
        model = make_model(parts, tuple(images.shape[1:]), CLASSES)
        initialize(model, images, settings.train)
        draw = settings.prepare.binarization == "dynamic"
        step_settings = settings.train.model_copy(update=train)
        return Step(model.to(device), images.to(device), draw, step_settings, labels.to(device))

    return make


# --- Nothing waits for the device


@pytest.mark.slow
@FAMILY
def test_a_step_reads_no_value_on_the_host(make_step, choice):
    # Fused Adam on the CPU reads its rate below the dispatcher, where these modes do not look: rightly, as on CUDA
    # the kernel takes the rate from the device.
    for precision in PRECISIONS:
        keys = {"gradient_clip": 5, "normalize_gradients": True, "weight_decay": 0.1, "ema_decay": 0.9}
        step = make_step(choice, precision=precision, kl="sampled", kl_warmup_epochs=2, **keys)
        step.begin_epoch()
        step(N)
        with NoReads(), NoCopies():
            step.begin_epoch()
            step(N)


MASK = torch.tensor([True, False])


def assign_through_a_mask(x, _):
    x[MASK] = x[:1]  # not a number, with which torch 2.15 fills without reading the mask


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


@pytest.mark.parametrize(
    "scatter",
    [
        lambda x, i: x.index_copy(0, i, x),
        lambda x, i: x.index_copy_(0, i, x),
        lambda x, i: x.index_add(0, i, x),
        lambda x, i: x.index_put((i,), x),
        lambda x, i: x.scatter(0, i, x),
        lambda x, i: x.scatter_(0, i, 1.0),
        lambda x, i: x.scatter_add(0, i, x),
        lambda x, i: x.clone().requires_grad_()[i].sum().backward(),
        lambda x, i: x.clone().requires_grad_().gather(0, i).sum().backward(),
        lambda x, i: torch.nn.functional.one_hot(i, 2),
        assign_through_a_mask,
    ],
)
def test_scatters_would_be_seen(scatter):
    with pytest.raises(AssertionError, match=r"sorts its indices|waits for the device"), NoReads(), NoCopies():
        scatter(torch.ones(2), torch.arange(2))


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
    for kernel in ("_fused_adam_", "_fused_adamw_"):
        monkeypatch.setattr(torch, kernel, lambda *lists, lr, **_: updated.extend([lr, *chain(*lists)]))
    step = make_step(choice, meta, normalize_gradients=True, weight_decay=0.1, ema_decay=0.9, kl_warmup_epochs=2)
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
    assert totals.shape == (4,)


# Autocast has no `meta` device: the loss in bfloat16, on a CUDA device that computes nothing.
@pytest.mark.slow
@pytest.mark.parametrize("choice", test_family.PAIRS, ids=lambda choice: "-".join(choice.values()))
def test_the_loss_in_bfloat16_stays_on_the_device(lean, fake_cuda, parse, choice):
    settings = parse(choice)
    model, kinds = make_model(settings.model, (1, 8, 8), CLASSES), set()
    model.encoder.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    with fake_cuda as device:
        model.to(device)
        images = pixels(torch.zeros(N, 1, 8, 8, dtype=torch.uint8, device=device), binarize=True)
        labels = torch.zeros(N, dtype=torch.int64, device=device)
        with autocast(device):
            loss, terms = OBJECTIVES[choice["objective"]](model, (images, labels), 1.0, settings.train)
    assert kinds == {torch.bfloat16}
    for value in (loss, *terms):
        assert (value.device, value.dtype) == (device, torch.float32)


def test_softplus_keeps_its_type_in_bfloat16(lean, fake_cuda):
    with fake_cuda as device, autocast(device):
        x = torch.ones(3, device=device, dtype=torch.bfloat16)
        assert kernels.Softplus()(x).dtype == torch.bfloat16


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


@pytest.fixture
def operations(meta, monkeypatch):
    """Give a function: the operations of a step as a GPU starts them; on a CPU it takes others, and some in halves."""
    updates = []
    monkeypatch.setattr(torch, "_fused_adam_", lambda *_, **__: updates.append("_fused_adam_"))

    def names(model, train):
        images = made_up_images(2 * train.batch_size, torch.device("cpu"))
        made = make_model(model, tuple(images.shape[1:]), CLASSES).to(meta)
        step = Step(made, images.to(meta), True, train.model_copy(update={"precision": "float32", "step": "eager"}))
        step.begin_epoch()
        step(train.batch_size)
        updates.clear()
        with Operations("meta") as counted:
            step(train.batch_size)
        return [*counted.names, *updates]

    return names


@pytest.mark.parametrize(("network", "most"), [("textbook", 60), ("params.yaml", 200)])
def test_a_step_keeps_its_budget_of_operations(lean, operations, network, most):
    """Each is a kernel on a GPU, where small kernels are most of a step's time. Lower the budget where you can."""
    if network == "textbook":
        names = operations(symmetric(50, [400], "softplus"), training(256, rounds=2))
    else:
        settings = parse_settings(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")
        names = operations(settings.model, settings.train)
    assert 0 < len(names) <= most, collections.Counter(names).most_common()


def test_views_are_no_operations():
    x = torch.ones(4, 4, requires_grad=True)
    with Operations("cpu") as counted:
        x.detach().unsqueeze(0).view(16).split(4)[0].expand(2, 4)[0].select(0, 1)
        x.t()[1:]
        torch.empty(3)
        x + x
    assert counted.names == ["add"]


def test_lists_of_tensors_are_one_operation():
    with Operations("cpu") as counted:
        torch._foreach_add_([torch.empty(3), torch.empty(2)], 1)
    assert counted.names == ["_foreach_add_"]
