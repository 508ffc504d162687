"""Captured graphs: on a GPU, and on the CPU with a capture whose replay runs the step."""

import contextlib
import math
import signal

import pytest
import torch
from pyro.distributions import transforms

from tests.training.conftest import same_weights
from vae import ranks
from vae.device import matrix_precision, set_up
from vae.errors import Interrupted, WorkError
from vae.model.objectives import OBJECTIVES
from vae.training import capture, loop, step
from vae.training.capture import WaitsForDevice, clear_caches
from vae.training.step import Step

VARIATIONS = {
    "default": {},
    "gated_mlp": {"network": "gated_mlp"},
    "conv": {"network": "conv", "encoder_widths": [4, 4], "decoder_widths": [4, 4]},
    "resnet": {"network": "resnet", "encoder_widths": [4, 4], "decoder_widths": [4, 4], "residual_blocks": 1},
    "gaussian_mixture": {"prior": "gaussian_mixture", "prior_components": 5},
    "vampprior": {"prior": "vampprior", "prior_components": 5},
    "realnvp": {"prior": "realnvp"},
    "spline": {"prior": "spline"},
    "full_covariance": {"posterior": "full_covariance"},
    "iaf": {"posterior": "iaf"},
    "coupling": {"posterior": "coupling"},
    "realnvp with a learned mixing": {"prior": "realnvp", "flow_mixing": "lu"},
    "coupling with a learned mixing": {"posterior": "coupling", "flow_mixing": "lu"},
    "dropout": {"dropout": 0.2},
    "levels iwae": {"levels": "iwae"},
    "levels hvae": {"levels": "hvae"},
    "levels hvae_branched": {"levels": "hvae_branched", "clip_log_variance": True},
    "label": {"condition": "label"},
    "relaxed_bernoulli": {"likelihood": "relaxed_bernoulli"},
    "continuous_bernoulli": {"likelihood": "continuous_bernoulli"},
    "discretized_logistic": {"likelihood": "discretized_logistic"},
}
TRAINING = {
    "clip": {"gradient_clip": 5},
    "normalized": {"normalize_gradients": True},
    "weight decay": {"weight_decay": 0.1},
    "in order": {"shuffle": False},
    "sampled kl": {"kl": "sampled"},
    "average": {"ema_decay": 0.8},
    "kl warm-up": {"kl_warmup_epochs": 2},
    "free bits": {"free_bits": 0.5},
    "several particles": {"particles": 3},
    "iwae": {"objective": "iwae", "particles": 3},
    "dreg": {"objective": "dreg", "particles": 3},
    "bfloat16": {"precision": "bfloat16"},
    "tf32": {"precision": "tf32"},
}
CASES = pytest.mark.parametrize(
    ("model", "train"),
    [*((model, {}) for model in VARIATIONS.values()), *(({}, train) for train in TRAINING.values())],
    ids=[*VARIATIONS, *TRAINING],
)


def needs_cuda(test):
    return pytest.mark.cuda(pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")(test))


@pytest.fixture
def images(digits):
    """150 digits: two whole mini-batches of 64 and one of 22."""
    return digits[:150]


@pytest.fixture
def make_step(make_model, make_train, images):
    """Give a function: a step of a small model."""

    def make(device, model, **train):
        labels = torch.arange(150) % 10
        made = make_model(image_shape=tuple(images.shape[1:]), **{"flow_widths": [8]} | model)
        draw = made.likelihood.binary
        return Step(made.to(device), images.to(device), draw, make_train(**train), labels.to(device))

    return make


def run_epochs(trained, epochs=3):
    for _ in range(epochs):
        trained.begin_epoch()
        for size in (64, 64, 22):
            trained(size)


def state_after(trained, epochs=3):
    torch.manual_seed(1)
    run_epochs(trained, epochs)
    return copies(trained)


def copies(trained):
    return {name: tensor.clone() for name, tensor in trained.tensors().items()}


FEW = {"batch_size": 16}  # nine whole mini-batches, of which eight fit into the longer graph, and one of six


def take_epochs(trained, epochs=3):
    """Train as the loop does; gives the numbers of the steps after which the loop may stop."""
    taken = []
    torch.manual_seed(1)
    for _ in range(epochs):
        trained.begin_epoch()
        taken += trained.steps()
    return taken


# --- A stand-in on the CPU: what is captured does not run, what is replayed does


class Stream:
    def wait_stream(self, other):
        pass


class Graph:
    """Remembers, when captured, what runs; forgets what that did."""

    capturing = None  # the graph of the capture that is under way

    def __init__(self):
        self.bodies = []

    def replay(self):
        for run in self.bodies:
            run()

    def pool(self):
        return self

    def reset(self):
        pass


class Events:
    """Stand for torch.cuda.Event and count what is waited for."""

    def __init__(self):
        self.recorded = self.waited = 0

    def __call__(self, blocking):
        return self

    def record(self):
        self.recorded += 1

    def synchronize(self):
        self.waited += 1


@pytest.fixture
def stub(monkeypatch):
    """Let the CPU stand for a GPU in `vae.training.capture`; gives what was captured, in order, by its pool."""
    pools, modes = [], ["default"]

    @contextlib.contextmanager
    def graph(captured, pool, stream):
        # A capture runs nothing: whatever the body does is undone.
        pools.append((captured, pool))
        monkeypatch.setattr(Graph, "capturing", captured)
        with torch.random.fork_rng(devices=[]):
            yield
        monkeypatch.setattr(Graph, "capturing", None)

    monkeypatch.setattr(capture, "_stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return pools


@pytest.fixture
def make_captured(make_step, stub, monkeypatch):
    """Give a function: a step on the CPU that believes it is captured."""
    call = capture.capture

    def captured(run, state=(), pool=None, times=1):
        before = []

        def recorded():
            if Graph.capturing:
                # The effects of this and of the calls that follow are undone below.
                before[:] = before or [tensor.detach().clone() for tensor in state]
                Graph.capturing.bodies.append(run)
            run()

        graph = call(recorded, state, pool, times)
        for tensor, value in zip(state, before, strict=True):
            tensor.detach().copy_(value)
        return graph

    monkeypatch.setattr(step, "capture", captured)

    def make(model, **train):
        made = make_step("cpu", model, **train)
        made.captures = True
        return made

    return make


@CASES
def test_a_capture_leaves_no_trace(lean, make_step, make_captured, stub, model, train):
    eager, captured = make_step("cpu", model, **train), make_captured(model, **train)
    expected, actual = state_after(eager), state_after(captured)
    assert set(captured.graphs) == {64, 22}
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def test_graphs_share_their_memory(lean, make_captured, stub):
    state_after(make_captured({}))
    (first, none), (_, shared) = stub
    assert none is None
    assert shared is first


def test_a_capture_keeps_no_step_alive_in_the_flows(lean, make_captured, stub):
    captured = make_captured({"prior": "realnvp", "posterior": "coupling"})
    captured.begin_epoch()
    captured._capture(64, 1)
    for part in captured.model.modules():
        held = [value for name, value in vars(part).items() if name.startswith("_cache")]
        assert not [value for value in held if isinstance(value, torch.Tensor)]
        assert getattr(part, "_cached_x_y", (None, None)) == (None, None)


@pytest.mark.parametrize("make", [transforms.affine_coupling, transforms.spline_coupling])
def test_clearing_caches_changes_no_value(make):
    flow = make(4)
    x = torch.randn(3, 4)
    y = flow(x)
    expected = flow.log_abs_det_jacobian(x, y)
    clear_caches(flow)
    assert flow._cached_x_y == (None, None)
    flow(x)
    torch.testing.assert_close(flow.log_abs_det_jacobian(x, flow(x)), expected)


# --- Several steps in one graph


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({}, {}),
        ({"prior": "realnvp", "dropout": 0.2}, {"gradient_clip": 5, "ema_decay": 0.8}),
        ({"condition": "label"}, {"kl_warmup_epochs": 2, "particles": 2}),
        ({}, {"step": "recorded", "shuffle": False}),
    ],
    ids=["default", "realnvp", "label", "recorded"],
)
def test_several_steps_in_one_graph_train_as_single_ones(lean, make_step, make_captured, stub, model, train):
    single, unrolled = make_step("cpu", model, **FEW, **train), make_captured(model, **FEW, **train)
    assert take_epochs(single) == [*range(1, 11)] * 3
    assert take_epochs(unrolled) == [8, 9, 10] * 3
    assert {size: len(graph.bodies) for size, graph in unrolled.graphs.items()} == {128: 8, 16: 1, 6: 1}
    for name, tensor in single.tensors().items():
        assert torch.equal(unrolled.tensors()[name], tensor), name


@pytest.mark.parametrize(
    ("done", "then"), [(1, [9, 10]), (2, [3, 4, 5, 6, 7, 8, 9, 10]), (8, [9, 10]), (9, [10]), (10, [])]
)
def test_an_epoch_may_go_on_with_a_longer_graph_after_any_step(lean, make_step, make_captured, done, then):
    single, unrolled = make_step("cpu", {}, **FEW), make_captured({}, **FEW)
    torch.manual_seed(1)
    single.begin_epoch()
    for size in [16] * min(done, 9) + [6] * (done == 10):
        single(size)
    unrolled.restore(copies(single))
    random_state = torch.get_rng_state()
    list(single.steps(done))
    torch.set_rng_state(random_state)
    assert list(unrolled.steps(done)) == then
    for name, tensor in single.tensors().items():
        assert torch.equal(unrolled.tensors()[name], tensor), name


def test_a_run_that_is_stopped_in_a_longer_graph_resumes_after_it(
    lean, run, data, make_captured, monkeypatch, tmp_path
):
    expected, expected_model = run(data, **FEW)

    class Captured(Step):
        def __init__(self, *args):
            super().__init__(*args)
            self.captures = True

    def stopping(graph, replay=Graph.replay):
        signal.raise_signal(signal.SIGTERM)
        replay(graph)

    monkeypatch.setattr(loop, "Step", Captured)
    for where in ("epoch 1, after step 8", "epoch 1, after step 9", "epoch 1, after step 10", "epoch 2, after step 8"):
        with monkeypatch.context() as patch, pytest.raises(Interrupted, match=where):
            patch.setattr(Graph, "replay", stopping)
            run(data, checkpoints=tmp_path, **FEW)
    resumed, model = run(data, checkpoints=tmp_path, **FEW)
    assert resumed.history == expected.history
    assert same_weights(model, expected_model)


@pytest.mark.parametrize(("count", "place"), [(1, "streamed"), (2, "resident")], ids=["streamed", "two ranks"])
def test_streamed_images_and_several_ranks_take_single_steps(make_captured, monkeypatch, count, place):
    monkeypatch.setattr(ranks, "count", lambda: count)
    sizes = []
    monkeypatch.setattr(Step, "__call__", lambda _, size: sizes.append(size))
    assert list(make_captured({}, **FEW, images=place).steps()) == [*range(1, 11)]
    assert sizes == [16] * 9 + [6]


# --- What waits is found out before the capture


ELBO = OBJECTIVES["elbo"]


class Waiting:
    """An objective that waits for the device where torch refuses that."""

    def __init__(self, objective):
        self.objective = objective

    def __call__(self, *args):
        if torch.cuda.get_sync_debug_mode() == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nmore")
        return self.objective(*args)


@pytest.fixture
def make_waiting(make_captured, stub, monkeypatch):
    """Give a function: a step that cannot be captured."""

    def make(**train):
        made = make_captured({}, **train)
        monkeypatch.setitem(OBJECTIVES, "elbo", Waiting(ELBO))
        return made

    return make


def test_what_cannot_be_captured_goes_on_eagerly_and_says_why(lean, make_step, make_waiting, stub, capsys):
    expected = state_after(make_step("cpu", {}))
    waiting = make_waiting(step="auto")
    actual = state_after(waiting)
    assert capsys.readouterr().out.splitlines() == [
        "training without a CUDA graph, as this model's step cannot be captured: called a synchronizing CUDA operation"
    ]
    assert not stub, "captured"
    assert not waiting.graphs
    assert torch.cuda.get_sync_debug_mode() == "default"
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def test_what_cannot_be_captured_goes_on_with_single_steps(lean, make_step, make_waiting):
    single = make_step("cpu", {}, **FEW)
    take_epochs(single)
    waiting = make_waiting(step="auto", **FEW)
    assert take_epochs(waiting) == [8, 9, 10, *range(1, 11), *range(1, 11)]
    for name, tensor in single.tensors().items():
        assert torch.equal(waiting.tensors()[name], tensor), name


def test_a_graph_that_is_asked_for_and_cannot_be_is_refused(lean, make_waiting, stub):
    waiting = make_waiting(step="graph")
    waiting.begin_epoch()
    before = {name: tensor.clone() for name, tensor in waiting.tensors().items()}
    with pytest.raises(WorkError, match=r"train\.step: got 'graph'.*called a synchronizing CUDA operation"):
        waiting(64)
    for name, tensor in before.items():
        assert torch.equal(waiting.tensors()[name], tensor), name


def test_other_errors_are_not_taken_for_waiting(stub):
    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        capture.capture(fail)
    assert torch.cuda.get_sync_debug_mode() == "default"


class Failing:
    """Something that fails in a capture, and in the warm-up runs before it does not."""

    def __init__(self, error):
        self.error, self.runs = error, 0

    def __call__(self):
        self.runs += 1
        if self.runs > capture._WARM_UP_RUNS:
            raise self.error


@pytest.fixture
def ending_fails(stub, monkeypatch):
    """Let the end of a failed capture raise an error of its own, as CUDA does."""

    @contextlib.contextmanager
    def graph(captured, pool, stream):
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "graph", graph)


@pytest.mark.usefixtures("ending_fails")
def test_a_capture_that_fails_says_what_to_do_and_what_went_wrong_first(lean):
    with pytest.raises(WorkError) as caught:
        capture.capture(Failing(RuntimeError("operation not permitted when stream is capturing\nstack")))
    assert str(caught.value) == (
        "the CUDA graph's capture failed (operation not permitted when stream is capturing); set train.step to eager"
    )


def test_a_capture_that_runs_out_of_memory_says_that(lean, stub):
    with pytest.raises(torch.OutOfMemoryError):
        capture.capture(Failing(torch.OutOfMemoryError("CUDA out of memory")))


# --- The host stays near the device


@pytest.mark.parametrize("steps", [1, step._UNROLLED])
def test_the_host_never_runs_more_than_two_waits_ahead(lean, make_step, monkeypatch, steps):
    events = Events()
    monkeypatch.setattr(torch.cuda, "Event", events)
    trained = make_step("cpu", {})
    for taken in range(steps, 10 * step._PACE + 1, steps):
        trained._keep_pace(steps)
        assert events.recorded == taken // step._PACE
        assert events.waited == max(events.recorded - 1, 0)


# --- On a GPU; the twins on the CPU are above


@needs_cuda
@CASES
def test_captured_graphs_agree_with_eager_steps(make_step, model, train):
    device = set_up("cuda")
    states = {}
    for how in ("eager", "graph"):
        with matrix_precision(train.get("precision", "float32")):
            made = make_step(device, model, step=how, **train)
            states[how] = state_after(made)
            assert set(made.graphs) == ({64, 22} if how == "graph" else set())
    # The same kernels and draws; the tolerance of `test_steps_equal_plain_pytorch` should a library choose others, and
    # bfloat16's 8 bits.
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if train.get("precision") == "bfloat16" else {"rtol": 1e-5, "atol": 2e-5}
    for name, tensor in states["eager"].items():
        torch.testing.assert_close(states["graph"][name], tensor, msg=name, **tolerance)


@needs_cuda
@CASES
def test_several_steps_in_one_captured_graph_train_as_single_ones(make_step, model, train):
    device = set_up("cuda")
    states = {}
    for unrolled in (1, step._UNROLLED):
        with matrix_precision(train.get("precision", "float32")):
            made = make_step(device, model, step="graph", **FEW, **train)
            made.unrolled = unrolled
            take_epochs(made)
            states[unrolled] = copies(made) | {"random": torch.cuda.get_rng_state()}
            assert set(made.graphs) == ({16, 6} if unrolled == 1 else {128, 16, 6})
    for name, tensor in states[1].items():
        assert torch.equal(states[step._UNROLLED][name], tensor), name


@needs_cuda
@pytest.mark.parametrize("done", [1, 3, 8, 9])
def test_an_epoch_may_go_on_with_a_longer_captured_graph_after_any_step(make_step, done):
    device = set_up("cuda")
    whole, stopped, resumed = (make_step(device, VARIATIONS["realnvp"], step="graph", **FEW) for _ in range(3))
    take_epochs(whole, 1)
    torch.manual_seed(1)
    stopped.begin_epoch()
    for _ in range(done):
        stopped(16)
    resumed.restore(copies(stopped))
    list(resumed.steps(done))  # with the random state that the stopped one has left
    for name, tensor in whole.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor), name


@needs_cuda
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("model", [VARIATIONS["default"], VARIATIONS["conv"]], ids=["mlp", "conv"])
def test_less_precise_steps_come_near_to_float32(make_step, model, precision):
    device = set_up("cuda")
    elbos = {}
    for each in ("float32", precision):
        with matrix_precision(each):
            totals = state_after(make_step(device, model, precision=each))["totals"]
        elbos[each] = (totals[0] - totals[1]).item() / 150
    # As in test_loop: tf32 keeps 10 bits and bfloat16 8, errors of 0.4 % in layers of some ten terms, less in the mean.
    assert math.isclose(elbos[precision], elbos["float32"], rel_tol=0.005)
    assert precision == "tf32" or elbos[precision] != elbos["float32"]


@needs_cuda
def test_a_captured_run_repeats_to_the_byte(make_step):
    device = set_up("cuda")
    first, again = (state_after(make_step(device, VARIATIONS["realnvp"], step="graph")) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(again[name], tensor), name


@needs_cuda
def test_waiting_is_found_out_before_the_capture(make_step, capsys, monkeypatch):
    device = set_up("cuda")
    expected = state_after(make_step(device, {}, step="eager"))

    def reading(*args):
        loss, terms = ELBO(*args)
        loss.item()
        return loss, terms

    monkeypatch.setitem(OBJECTIVES, "elbo", reading)
    actual = state_after(make_step(device, {}, step="auto"))
    assert "cannot be captured: called a synchronizing CUDA operation" in capsys.readouterr().out
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@needs_cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("how", ["eager", "graph"])
def test_an_epoch_never_waits_for_the_device(make_step, how):
    device = set_up("cuda")
    made = make_step(device, {}, step=how, ema_decay=0.9, gradient_clip=5, **FEW)
    take_epochs(made, 1)  # captures all graphs, which does wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        take_epochs(made, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.index.item() == 20


@needs_cuda
def test_graphs_are_captured_by_default_on_cuda(make_step):
    assert make_step(set_up("cuda"), {}, step="auto").captures


def test_waiting_has_a_message_of_one_line(stub):
    def wait():
        if torch.cuda.get_sync_debug_mode() == "error":
            raise RuntimeError("called a synchronizing CUDA operation\nC++ stack")

    with pytest.raises(WaitsForDevice, match=r"^called a synchronizing CUDA operation$"):
        capture.capture(wait)
