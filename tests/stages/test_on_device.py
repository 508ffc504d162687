"""The stages that compute, on a CPU and on a GPU, and with device tensors that hold no values."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import classify, evaluate, sample, train
from tests.fake_cuda import MadeUp
from tests.stages.conftest import change, contents, execute
from vae.data.images import Split
from vae.data.splits import write_split
from vae.evaluation import latent_space
from vae.evaluation.classifier import Classifier
from vae.evaluation.uncertainty import Estimate
from vae.model import make_model
from vae.settings import load_settings

N = 60
METADATA = {"dataset": "digits", "binarization": "dynamic", "classes": list("0123456789")}
MODEL = {"latent_dim": 4, "encoder_widths": [8], "decoder_widths": [8], "flow_widths": [8], "prior_layers": 2}
COMPUTING = ("classify", "train", "evaluate", "sample")


@pytest.fixture
def prepared(project, digits):
    """Prepared digits, and settings that take seconds."""
    for start, name in enumerate(("train", "validation", "test")):
        gray, labels = digits[start * N : (start + 1) * N], torch.arange(N) % 10
        binary = (gray > 127).to(torch.uint8) * 255
        split = Split(gray, labels) if name == "train" else Split(binary, labels, gray.clone())
        write_split(project / f"data/prepared/{name}.safetensors", split, METADATA)
    change(
        model=MODEL,
        train={"epochs": 2, "batch_size": 16, "snapshot_epochs": [1], "objective": "iwae", "particles": 2},
        classify={"epochs": 1},
        evaluate={"importance_samples": 3, "training_images": N},
        sample={"images": N},
    )
    return project


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stage_writes_the_same_bytes_each_time(prepared, monkeypatch, device, precision):
    change(train={"device": device.type, "precision": precision})
    for name in COMPUTING:
        written = []
        for _ in range(2):
            assert execute(monkeypatch, name) == 0
            written.append(contents())
        assert written[0] == written[1], name
    for name in COMPUTING:
        values = json.loads(Path(f"metrics/{name}.json").read_text()).values()
        assert np.isfinite(list(values)).all()


# --- CUDA tensors that compute nothing: what only goes forward


@pytest.fixture
def on_fake_cuda(prepared, fake_cuda, monkeypatch):
    """Give a function: run a stage on a CUDA device whose tensors hold no values; gives the arrays that it wrote."""

    def run(stage):
        settings, written = load_settings("params.yaml"), {}
        model = make_model(settings.model, (1, 8, 8), 10).eval().requires_grad_(False)
        classifier = Classifier((1, 8, 8), 10).eval().requires_grad_(False)
        found = latent_space.Classified(*[Estimate(0.5, 0.1)] * 4, np.zeros(N, dtype=np.int64))
        with fake_cuda as device:
            name = stage.__module__

            def read(folder, *names):
                images, labels = torch.zeros(N, 1, 8, 8, dtype=torch.uint8), torch.zeros(N, dtype=torch.int64)
                return dict.fromkeys(names, Split(images, labels, images)), METADATA

            monkeypatch.setattr(f"{name}.set_up", lambda _: device)
            monkeypatch.setattr(f"{name}.read_splits", read)
            monkeypatch.setattr(f"{name}.load_trained", lambda path, prepared, where: model.to(torch.device(where)))
            monkeypatch.setattr("vae.evaluation.classifier.load", lambda *_: classifier.to(device))
            # On the CPU alone, and their shapes or course depend on values.
            monkeypatch.setattr(latent_space, "classify", lambda *_: found)
            monkeypatch.setattr("vae.evaluation.evaluate.errors_by_class", lambda *_: [{"class": ""}])
            for function in ("frechet_distance", "frechet_error"):
                monkeypatch.setattr(f"vae.evaluation.samples.{function}", lambda *_: 0.0)
            monkeypatch.setattr(f"{name}.write_arrays", lambda _, arrays: written.update(arrays))
            stage(settings)
        return written

    return run


@pytest.mark.parametrize("prior", ["realnvp", "vampprior"])
def test_evaluation_mixes_no_devices(lean, on_fake_cuda, prior):
    change(model={"prior": prior, "prior_components": 5})
    assert on_fake_cuda(evaluate.evaluate)["mean"].shape == (N, 4)


def test_sampling_mixes_no_devices(lean, on_fake_cuda):
    assert on_fake_cuda(sample.sample)["samples"].shape == (N, 1, 8, 8)


# --- `meta`, which has backward passes too


@pytest.fixture
def on_meta(prepared, monkeypatch):
    """Give a function: run a stage on the `meta` device, without its file of weights; gives the weights' devices."""

    def run(stage):
        devices = set()

        def save(module, *_):
            devices.update(parameter.device.type for parameter in module.parameters())

        name = stage.__module__
        monkeypatch.setattr(f"{name}.set_up", lambda _: torch.device("meta"))
        monkeypatch.setattr(f"{name}.save", save)
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it has none, and no fused Adam
        monkeypatch.setattr(torch, "_fused_adam_", lambda *_, **__: None)
        adam = torch.optim.Adam
        monkeypatch.setattr(torch.optim, "Adam", lambda parameters, fused: adam(parameters, foreach=False))
        with MadeUp():
            stage(load_settings("params.yaml"))
        return devices

    return run


def test_training_mixes_no_devices(lean, on_meta):
    assert on_meta(train.train_stage) == {"meta"}


def test_training_the_classifier_mixes_no_devices(lean, on_meta):
    assert on_meta(classify.classify) == {"meta"}
