"""Runs made by hand in place of a pipeline: a project of a few, their outputs in DVC's cache; one with its record."""

import copy
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.checkouts import ENVIRONMENT, ROOT, call
from vae.files import write_arrays, write_csv, write_tensors
from vae.model import make_model, save
from vae.settings import parse_settings

PARAMS = yaml.safe_load((Path(__file__).resolve().parents[2] / "params.yaml").read_bytes())
IMAGE_SHAPE = (1, 8, 8)
IMAGES, CLASSES = 40, [str(digit) for digit in range(10)]
OUTPUTS = ["data/prepared", "data/model.safetensors", "data/latents.npz", "plots/history.csv"]


def run_settings(latent_dim: int) -> dict:
    settings = copy.deepcopy(PARAMS)
    settings["model"] |= {"latent_dim": latent_dim, "encoder_widths": [8], "decoder_widths": [8]}
    settings["model"]["prior"] = "standard_normal"
    return settings


def values_by_image(seed: int) -> dict[str, np.ndarray]:
    """Values that differ little between two runs, and much more between images."""
    images = np.random.default_rng(0).normal(90, 20, IMAGES)
    nll = (images + np.random.default_rng(seed).normal(seed, 0.5, IMAGES)).astype(np.float32)
    return {"nll": nll, "elbo": -nll - 1, "labels": np.arange(IMAGES) % len(CLASSES)}


def run_metrics(values: dict[str, np.ndarray]) -> dict[str, float]:
    nll = values["nll"].astype(float)
    found = {"test_nll": nll.mean(), "test_nll_stderr": nll.std(ddof=1) / np.sqrt(IMAGES), "test_elbo": -nll.mean() - 1}
    return {key: round(value, 4) for key, value in found.items()} | {"active_units": 3, "surprise_<b>": 0.5}


def write_run(folder: Path, seed: int, latent_dim: int, pixels: int = 0) -> None:
    """Write what a run leaves; `pixels` is the seed of the test images' draw."""
    generator = torch.Generator().manual_seed(pixels)
    images = torch.randint(0, 2, (IMAGES, *IMAGE_SHAPE), generator=generator, dtype=torch.uint8) * 255
    test = {"images": images, "labels": torch.arange(IMAGES) % len(CLASSES)}
    write_tensors(folder / "data/prepared/test.safetensors", test, {"classes": CLASSES})
    settings = run_settings(latent_dim)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    torch.manual_seed(seed)
    model_settings = parse_settings(settings, "params.yaml").model
    metadata = {"classes": CLASSES, "dataset": "digits", "binarization": "dynamic", "epochs": 2, "best_epoch": 2}
    model = make_model(model_settings, IMAGE_SHAPE, len(CLASSES))
    save(model, folder / "data/model.safetensors", model_settings, metadata)
    values = values_by_image(seed)
    write_arrays(folder / "data/latents.npz", values)
    history = [{"epoch": epoch, "train_elbo": -95 - epoch, "validation_elbo": -94 + epoch} for epoch in (1, 2)]
    write_csv(folder / "plots/history.csv", history)
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics/evaluate.json").write_text(json.dumps(run_metrics(values)))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commits tagged `first`, `second` and `redrawn` (on other test pixels), and the experiment `tuned` on them."""
    folder = tmp_path_factory.mktemp("project")
    call(folder, "git", "init", "--quiet", "--initial-branch=main")
    call(folder, "dvc", "init", "--quiet")
    for name, run in {"first": (1, 2), "second": (2, 3), "redrawn": (3, 3, 1)}.items():
        write_run(folder, *run)
        call(folder, "dvc", "add", "--quiet", *OUTPUTS)
        call(folder, "git", "add", "--all")
        call(folder, "git", "commit", "--quiet", f"--message={name}")
        call(folder, "git", "tag", name)
    write_run(folder, 4, 2)
    call(folder, "dvc", "add", "--quiet", *OUTPUTS)
    call(folder, "dvc", "exp", "save", "--quiet", "--name", "tuned")
    return folder


RECORD = {"test_nll": 84.86, "test_nll_stderr": 0.23, "frechet_distance": 13.79, "frechet_distance_real": 0.57}
SETTINGS = {"train": {"epochs": 50, "learning_rate": 0.003, "checkpoint_every": 5, "keep_checkpoint": False}}


def write_record(folder: Path, metrics: dict[str, float], **train: object) -> None:
    """Write the files of a finished run that are compared."""
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics/evaluate.json").write_text(json.dumps(metrics))
    (folder / "params.yaml").write_text(yaml.safe_dump({"train": SETTINGS["train"] | train}))


def finish_run(folder: Path) -> None:
    for name, contents in {"data/model.safetensors": b"weights", "plots/report.html": b""}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(contents)
    (folder / "plots/report.html").write_text(f"<td>{hashlib.sha256(b'weights').hexdigest()}</td>")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A finished run whose metrics are committed."""
    folder = tmp_path / "project"
    folder.mkdir()
    write_record(folder, RECORD)
    finish_run(folder)
    call(folder, "git", "init", "--quiet")
    call(folder, "git", "add", "metrics", "params.yaml")
    call(folder, "git", "commit", "--quiet", "--message=Results")
    return folder


def run_tool(tool: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The output of a tool in a folder."""
    command = [sys.executable, "-m", f"tools.{tool}"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
