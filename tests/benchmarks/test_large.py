"""A large data set made of shifted copies, and the runs that are measured on it."""

import time

import numpy as np
import pytest
import torch

from benchmarks import large
from tests.conftest import linux_only
from vae.data.images import Split
from vae.data.splits import read_split

METADATA = {"dataset": "mnist", "binarization": "dynamic", "classes": list("0123456789")}


@pytest.fixture
def split(digits):
    return Split(digits[:300], torch.arange(300) % 10)


def test_copies_are_shifted_each_in_its_own_way(split):
    copies = [copy.numpy() for copy in large.shifted(split.images, 9)]
    assert len({copy.tobytes() for copy in copies}) == 9
    padded = np.pad(split.images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = {padded[:, :, y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(3)}
    assert {copy.tobytes() for copy in copies} == windows
    assert any(np.array_equal(copy, split.images) for copy in copies)


@pytest.mark.parametrize("copies", [1, 2, 100])
def test_there_are_as_many_copies_as_asked_for(split, copies):
    assert len({copy.numpy().tobytes() for copy in large.shifted(split.images, copies)}) == copies


def test_a_written_file_is_a_split_of_all_copies(split, tmp_path):
    large.write_copies(tmp_path / "train.safetensors", split, 4, METADATA)
    back, metadata = read_split(tmp_path / "train.safetensors")
    assert torch.equal(back.images, torch.cat([*large.shifted(split.images, 4)]))
    assert torch.equal(back.labels, split.labels.repeat(4))
    assert metadata == METADATA | {"image_shape": [1, 8, 8]}


@linux_only
def test_runs_end_with_the_same_weights_and_know_their_memory(split, tmp_path, monkeypatch):
    monkeypatch.setattr(large, "WARM_UP", 1)
    path = tmp_path / "train.safetensors"
    large.write_copies(path, split, 2, METADATA)
    runs = [large.measure(path, way, cold, steps=1) for way in large.WAYS for cold in (False, True)]
    assert len({run["weights"] for run in runs}) == 1
    for run in runs:
        assert run["rate"] > 0
        assert run["peak"] >= run["before"] > 0


@linux_only
def test_peak_memory_sees_what_is_gone_at_the_end():
    with large.peak_memory() as peak:
        before, held = large.anonymous_memory(), torch.ones(200_000_000, dtype=torch.uint8)
        while peak[0] < before + 100:  # the watcher looks every 10 ms
            time.sleep(0.01)
        del held
    assert peak[0] - before < 1_000


def test_more_steps_than_an_epoch_has_are_refused(split, monkeypatch, capsys):
    monkeypatch.setattr(large, "read", lambda name, folder: {"train": (split.images.numpy(), split.labels.numpy())})
    with pytest.raises(SystemExit) as ended:
        large.main(["--copies", "1", "--steps", "1"])
    assert ended.value.code == 2
    assert "--steps" in capsys.readouterr().err
