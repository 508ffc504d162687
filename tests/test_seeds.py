import importlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from vae.data.images import binarize
from vae.seeds import derive

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("download", "prepare", "classify", "train", "evaluate", "sample", "embed", "plot")
SMALL = {
    "download": {"dataset": "digits"},
    "prepare": {"validation_size": 200},
    "model": {"latent_dim": 2, "encoder_widths": [4], "decoder_widths": [4], "condition": "label"},
    "train": {"device": "cpu", "epochs": 1, "snapshot_epochs": [1], "objective": "iwae", "particles": 2},
    "classify": {"epochs": 1},
    "evaluate": {"importance_samples": 1, "training_images": 100},
    "sample": {"images": 50},
    "embed": {"images": 10},
    "plot": {"dpi": 50, "samples": 4},
}

PURPOSES = {
    *("prepare.test", "prepare.validation", "classify", "train.validation", "train.validation_bound"),
    *("evaluate.training", "evaluate.likelihood", "evaluate.training_elbo", "evaluate.kl_per_dimension"),
    *("evaluate.chunk_0", "evaluate.prior_mmd", "evaluate.clusters"),
    *("sample.training", "sample.choice", "sample.bootstrap"),
    *(f"sample.{what}.{number}" for what in ("latents", "pixels") for number in range(3)),
    *("embed", "plot.samples", "plot.samples_by_class", "plot.uncertainty"),
}  # and prepare.training under static binarization


def test_a_seed_depends_on_the_settings_seed_and_the_purpose_alone():
    assert derive(0, "prepare.test") == derive(0, "prepare.test")
    assert len({derive(seed, purpose) for seed in range(100) for purpose in ("prepare.test", "sample.pixels.0")}) == 200
    # Pinned, as another Python or numpy must draw the same pixels: SeedSequence([0, crc32(b"prepare.test")]).
    assert derive(0, "prepare.test") == 841048804


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_seed_is_one_that_every_library_takes(seed):
    found = derive(seed, "embed")
    assert isinstance(found, int) and 0 <= found < 2**32


def test_the_thresholds_of_two_purposes_are_uncorrelated():
    purposes = ("prepare.test", "prepare.training", "prepare.validation", "sample.training", "evaluate.training")
    gray = torch.full((50, 1, 28, 28), 128, dtype=torch.uint8)
    drawn = [binarize(gray, "dynamic", torch.Generator().manual_seed(derive(0, purpose))) for purpose in purposes]
    noise = torch.Generator().manual_seed(derive(0, "sample.pixels.0"))
    drawn.append(torch.bernoulli(gray / 255, generator=noise))
    correlations = np.corrcoef([images.flatten().double().numpy() for images in drawn])
    # Five standard errors of a correlation of independent pixels; one seed for two of them gives 1.
    assert (np.abs(correlations - np.eye(len(drawn))) < 5 / gray.numel() ** 0.5).all()


@pytest.fixture
def derived(tmp_path, monkeypatch):
    """Run the stages in this process on small settings, every section's seed being 0: stages and seeds by purpose."""
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, keys in SMALL.items():
        settings[section] |= keys
    Path("params.yaml").write_text(json.dumps(settings))
    found = {}

    def recording(seed, purpose):
        found.setdefault(purpose, set()).add((stage, derive(seed, purpose)))
        return derive(seed, purpose)

    for stage in STAGES:
        importlib.import_module(f"stages.{stage}")
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("vae", "stages") and hasattr(module, "derive"):
            monkeypatch.setattr(module, "derive", recording)
    for stage in STAGES:
        monkeypatch.setattr(sys, "argv", [f"stages/{stage}.py"])
        monkeypatch.delitem(sys.modules, f"stages.{stage}")
        runpy.run_module(f"stages.{stage}", run_name="__main__")
    return found


@pytest.mark.slow
def test_no_two_purposes_of_the_pipeline_share_a_seed(derived):
    assert set(derived) == PURPOSES
    uses = [use for purpose in derived for use in derived[purpose]]
    assert all(purpose.partition(".")[0] == stage for purpose in derived for stage, _ in derived[purpose])
    # Training's own stream is that of the setting itself, 0.
    assert len({seed for _, seed in uses} | {0}) == len(uses) + 1
