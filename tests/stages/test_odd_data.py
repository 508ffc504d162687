"""Odd data sets, as files in data/raw, go through the stages or are refused by `prepare` with one message."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sources.published import idx
from tests.stages.conftest import ROOT, SMALL, change, execute

NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
LEARNING, SHOWING = ("classify", "train", "evaluate", "sample", "embed"), ("plot", "report")


def gray(n, height=8, width=8):
    return np.random.default_rng(n).integers(256, size=(n, height, width), dtype=np.uint8)


def flat(value, n, height=8, width=8):
    return np.full((n, height, width), value, np.uint8)


def classes(n, first=0, count=10):
    return (first + np.arange(n) % count).astype(np.uint8)


def data(train=None, test=None, train_labels=None, test_labels=None):
    """Images and labels; by default gray noise of ten classes."""
    images, others = gray(60) if train is None else train, gray(30) if test is None else test
    labels = classes(len(images)) if train_labels is None else train_labels
    return images, labels, others, classes(len(others)) if test_labels is None else test_labels


def one_of(n):
    """Black images and a white one."""
    return np.concatenate([flat(0, n - 1), flat(255, 1)])


WORK = {
    "all black": data(flat(0, 60), flat(0, 30)),
    "all white": data(flat(255, 60), flat(255, 30)),
    "all gray": data(flat(100, 60), flat(100, 30)),
    "almost black": data(flat(1, 60), flat(1, 30)),
    "black test images": data(test=flat(0, 30)),
    "white training images": data(flat(255, 60)),
    "the same image": data(np.repeat(gray(1), 60, 0), np.repeat(gray(1), 30, 0)),
    "one image that differs": data(one_of(60), one_of(30)),
    "test images that are training images": data(gray(60), gray(60)[:30]),
    "ten images, fewer than a batch": data(gray(10), gray(10)),
    "one class": data(train_labels=classes(60, 0, 1), test_labels=classes(30, 0, 1)),
    "one training class": data(train_labels=classes(60, 7, 1)),
    "one test class": data(test_labels=classes(30, 3, 1)),
    "two classes": data(train_labels=classes(60, 0, 2), test_labels=classes(30, 0, 2)),
    "a class without test images": data(test_labels=classes(30, 0, 9)),
    "a class without training images": data(train_labels=classes(60, 0, 9)),
    "other classes in the test": data(train_labels=classes(60, 0, 5), test_labels=classes(30, 5, 5)),
    "one pixel": data(gray(60, 1, 1), gray(30, 1, 1)),
    "one row": data(gray(60, 1, 28), gray(30, 1, 28)),
    "one column": data(gray(60, 28, 1), gray(30, 28, 1)),
    "two by two pixels": data(gray(60, 2, 2), gray(30, 2, 2)),
}
SHOWN = ("all black", "one class", "one test class", "a class without test images", "one pixel")
REFUSED = {
    "one training image": (data(gray(1)), "train-images"),
    "two images": (data(gray(2), gray(2)), "train-images"),
    "nine images": (data(gray(9)), "train-images"),
    "one test image": (data(test=gray(1)), "t10k-images"),
    "no images": (data(gray(0)), "train-images"),
    "no test images": (data(test=gray(0)), "t10k-images"),
    "no pixels": (data(gray(60, 0), gray(30, 0)), "train-images"),
    "another size in the test": (data(test=gray(30, 9, 9)), "t10k-images"),
    "a label of 10": (data(train_labels=classes(60, 1)), "train-labels"),
    "a label of 255 in the test": (data(test_labels=np.full(30, 255, np.uint8)), "t10k-labels"),
}


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Give a function: write a data set into data/raw, run `prepare` and return its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vae.device.set_up", torch.device)

    def run(arrays, method="tsne", **more):
        Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        change(**SMALL)
        change(
            download={"dataset": "mnist"},
            prepare={"validation_size": 0},
            sample={"images": 30},
            embed={"method": method, "images": 30, "perplexity": 5},
        )
        change(**more)
        Path("data/raw").mkdir(parents=True)
        for name, array in zip(NAMES, arrays, strict=True):
            Path(f"data/raw/{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
        return execute(monkeypatch, "prepare")

    return run


@pytest.mark.fault
@pytest.mark.parametrize("name", WORK)
def test_an_odd_data_set_can_be_trained_on_and_evaluated(prepare, monkeypatch, capsys, name):
    assert prepare(WORK[name]) == 0
    for stage in (*LEARNING, *(SHOWING if name in SHOWN else ())):
        assert execute(monkeypatch, stage) == 0, f"{stage}: {capsys.readouterr().err}"


@pytest.mark.parametrize("name", ["all black", "all gray", "one class", "one pixel"])
def test_an_odd_data_set_of_gray_pixels_can_be_trained_on_and_evaluated(prepare, monkeypatch, capsys, name):
    gray_pixels = {"prepare": {"binarization": "none"}, "model": {"likelihood": "discretized_logistic"}}
    assert prepare(WORK[name], "pca", **gray_pixels) == 0
    for stage in LEARNING:
        assert execute(monkeypatch, stage) == 0, f"{stage}: {capsys.readouterr().err}"


@pytest.mark.fault
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(prepare, capsys, name):
    arrays, file = REFUSED[name]
    assert prepare(arrays) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: data/raw/{file}-")
    assert message.endswith("; run `dvc repro --force --single-item download` to recreate it\n")
    assert message.count("\n") == 1
    assert not Path("data/prepared").exists()
