"""Where the training images lie changes no byte of a result."""

import signal
import time

import numpy as np
import pytest
import torch

from tests.conftest import as_split
from tests.training.conftest import same_weights
from vae import ranks
from vae.data.images import Split
from vae.data.splits import read_split, write_split
from vae.errors import Interrupted
from vae.training import loop, supply
from vae.training.data import Data
from vae.training.supply import Streamed, placed

pytestmark = pytest.mark.usefixtures("lean")
WAYS = ("resident", "streamed")
CPU = torch.device("cpu")
START = torch.zeros(1, dtype=torch.int64)


@pytest.fixture
def images(digits):
    return digits[:150]


def gathered(streamed, sizes):
    """The mini-batches of these sizes, as a step sees them."""
    for size in sizes:
        streamed.advance()
        yield streamed(torch.arange(size)).clone()


def order():
    return torch.randperm(150, generator=torch.Generator().manual_seed(3))


# --- The choice


@pytest.mark.parametrize(("memory", "where"), [(2 * 150 * 64, "resident"), (2 * 150 * 64 - 1, "streamed")])
def test_auto_streams_what_takes_more_than_half_of_the_memory(make_train, images, monkeypatch, memory, where, capsys):
    monkeypatch.setattr(supply, "_memory", lambda device: memory)
    assert placed(make_train(images="auto"), images, CPU).images == where
    assert ("streaming" in capsys.readouterr().out) == (where == "streamed")


@pytest.mark.parametrize("where", WAYS)
def test_the_settings_may_say_where(make_train, images, monkeypatch, where, capsys):
    monkeypatch.setattr(supply, "_memory", lambda device: 150 * 64)
    settings = make_train(images=where)
    assert placed(settings, images, CPU) == settings
    assert not capsys.readouterr().out


def test_these_digits_fit(make_train, images):
    assert placed(make_train(images="auto"), images, CPU).images == "resident"


# --- The mini-batches


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_mini_batches_follow_the_order_from_any_of_them_on(images, batch):
    streamed = Streamed(images, 64, CPU)
    streamed.begin(order(), START + batch)
    sizes = [64, 64, 22][batch:]
    for found, places in zip(gathered(streamed, sizes), order().split(64)[batch:], strict=True):
        assert torch.equal(found, images[places])


@pytest.mark.parametrize("count", [2, 4])
def test_each_rank_gathers_its_rows_of_every_mini_batch(images, monkeypatch, count):
    sizes = [37, 37, 37, 37, 2]
    parts = []
    for rank in range(count):
        monkeypatch.setattr(ranks, "count", lambda: count)
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        streamed = Streamed(images, 37, CPU)
        streamed.begin(order(), START)
        own = [size if size < count else len(range(size)[ranks.rows(size).slice]) for size in sizes]
        parts.append([*gathered(streamed, own)])
    for places, *rows in zip(order().split(37), *parts, strict=True):
        if len(places) < count:
            assert all(torch.equal(part, images[places]) for part in rows)
        else:
            assert torch.equal(torch.cat(rows), images[places])


def test_an_epoch_that_is_left_early_leaves_nothing_behind(images):
    streamed = Streamed(images, 1, CPU)  # more mini-batches than are gathered ahead
    streamed.begin(torch.arange(150), START)
    list(gathered(streamed, [1] * 5))
    streamed.begin(order(), START)
    assert torch.equal(torch.cat([*gathered(streamed, [1] * 150)]), images[order()])


def test_threads_that_are_late_change_no_order(images, monkeypatch):
    take, random = np.take, np.random.default_rng(0)

    def late(*arguments, **keys):
        time.sleep(random.choice([0, 0.001, 0.01]))
        return take(*arguments, **keys)

    monkeypatch.setattr(np, "take", late)
    streamed = Streamed(images, 8, CPU)
    streamed.begin(order(), START)
    sizes = [8] * 18 + [6]
    assert torch.equal(torch.cat([*gathered(streamed, sizes)]), images[order()])


def test_a_step_always_reads_the_same_memory(images):
    streamed = Streamed(images, 64, CPU)
    streamed.begin(order(), START)
    places = set()
    for size in (64, 64, 22):
        streamed.advance()
        places.add(streamed(torch.arange(size)).data_ptr())
    assert len(places) == 1


def test_on_a_gpu_mini_batches_are_copied_to_it_and_the_rest_stays_on_the_host(fake_cuda):
    with fake_cuda as device:
        streamed = Streamed(torch.zeros(150, 1, 8, 8, dtype=torch.uint8), 64, device)
        streamed.begin(torch.arange(150, device=device), torch.zeros(1, dtype=torch.int64, device=device))
        streamed.advance()
        assert streamed(torch.arange(64, device=device)).device == device
        assert all(waiting.device.type == "cpu" for _, waiting in streamed.ahead)


# --- Whole runs


@pytest.mark.parametrize("keys", [{"step": "eager"}, {"step": "recorded"}, {"shuffle": False, "batch_size": 25}])
def test_a_streamed_run_ends_with_the_same_bytes(run, data, keys):
    resident, resident_model = run(data, images="resident", **keys)
    streamed, streamed_model = run(data, images="streamed", **keys)
    assert streamed.history == resident.history
    assert same_weights(streamed_model, resident_model)
    assert all(torch.equal(images, streamed.snapshots[epoch]) for epoch, images in resident.snapshots.items())


def test_labels_go_with_streamed_images(run, make_model, digits):
    split = Split(digits[:150], torch.arange(150) % 10)
    data = Data(split, None, split.first(5), binarize=True)
    models = [run(data, make_model(condition="label"), images=where, epochs=1)[1] for where in WAYS]
    assert same_weights(*models)


def test_images_of_a_file_are_streamed_from_the_file(run, digits, tmp_path, monkeypatch):
    metadata = {"dataset": "digits", "binarization": "dynamic", "classes": list("0123456789")}
    write_split(tmp_path / "train.safetensors", as_split(digits[:150]), metadata)
    split, _ = read_split(tmp_path / "train.safetensors")
    sources = []
    take = np.take
    monkeypatch.setattr(np, "take", lambda source, *rest, **keys: sources.append(source) or take(source, *rest, **keys))
    run(Data(split, None, split.first(5), binarize=True), images="streamed", epochs=1)
    assert {source.ctypes.data for source in sources} == {split.images.data_ptr()}


def test_a_file_that_is_replaced_meanwhile_is_streamed_as_it_was(run, digits, tmp_path):
    path = tmp_path / "train.safetensors"
    metadata = {"dataset": "digits", "binarization": "dynamic", "classes": list("0123456789")}
    write_split(path, as_split(digits[:150]), metadata)
    split, _ = read_split(path)
    write_split(path, as_split(255 - digits[:150]), metadata)
    (_, found), (_, expected) = (
        run(Data(train, None, as_split(digits[:5]), binarize=True), images="streamed", epochs=1)
        for train in (split, as_split(digits[:150]))
    )
    assert same_weights(found, expected)


@pytest.fixture
def stop_after(monkeypatch):
    """Give a function: ask the run to stop after the given number of further steps."""
    call = loop.Step.__call__

    def arrange(number):
        counted = []

        def counting(step, size):
            call(step, size)
            counted.append(size)
            if len(counted) == number:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(loop.Step, "__call__", counting)

    return arrange


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("ways", [("streamed", "streamed"), ("streamed", "resident"), ("resident", "streamed")])
def test_a_run_that_is_interrupted_may_continue_from_elsewhere(run, data, tmp_path, stop_after, ways, steps):
    expected, expected_model = run(data, images="resident")
    stop_after(steps)
    with pytest.raises(Interrupted, match="the state is saved"):
        run(data, checkpoints=tmp_path, images=ways[0])
    resumed, model = run(data, checkpoints=tmp_path, images=ways[1])
    assert resumed.history == expected.history
    assert same_weights(model, expected_model)


@pytest.mark.fault
@pytest.mark.parametrize("failing", [1, 2, 5])
def test_what_fails_in_a_thread_ends_the_run_with_its_error(run, data, monkeypatch, tmp_path, failing):
    take, calls = np.take, []

    def fail(*arguments, **keys):
        calls.append(1)
        if len(calls) == failing:
            raise OSError(5, "Input/output error", "train.safetensors")
        return take(*arguments, **keys)

    monkeypatch.setattr(np, "take", fail)
    with pytest.raises(OSError, match="Input/output error"):
        run(data, images="streamed", checkpoints=tmp_path, checkpoint_every=1)
    assert (tmp_path / "last.pt").exists() == (failing > 3), "the first epoch has three mini-batches"
