"""What the tests of the stages share: small settings, a stage in this process, and what the stages leave."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SMALL = {
    "download": {"dataset": "digits"},
    "prepare": {"validation_size": 200},
    "model": {"latent_dim": 2, "encoder_widths": [4], "decoder_widths": [4]},
    "train": {"device": "cpu", "epochs": 1, "snapshot_epochs": [1]},
    "classify": {"epochs": 1},
    "evaluate": {"importance_samples": 1, "training_images": 100},
    "sample": {"images": 50},
    "embed": {"method": "pca", "images": 10},
    "plot": {"dpi": 50},
}


def change(**sections):
    values = yaml.safe_load(Path("params.yaml").read_text())
    for section, keys in sections.items():
        values[section] |= keys
    Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def execute(patch, name, *arguments):
    """Do in this process what `python -m stages.NAME` does, and return the exit status.

    An exception, which `python -m` would show as a traceback, ends the test.
    """
    patch.setattr(sys, "argv", [f"stages/{name}.py", *arguments])
    patch.delitem(sys.modules, f"stages.{name}", raising=False)
    try:
        runpy.run_module(f"stages.{name}", run_name="__main__")
    except SystemExit as ended:
        return ended.code
    return 0


def contents():
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "stage.lock"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a copy of params.yaml and nothing else, as the working folder."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Give a function: run a stage that must fail, and return its exit status and its one message."""

    def run_stage(name, *arguments):
        before = contents()
        status = execute(monkeypatch, name, *arguments)
        assert contents() == before
        output, message = capsys.readouterr()
        assert not output
        assert message.startswith("error: ")
        assert message.count("\n") == 1, "one message"
        return status, message.removeprefix("error: ").rstrip()

    return run_stage


@pytest.fixture(scope="session")
def ran(made_once):
    """A folder in which every stage but the last ran on the digits; only to be read."""
    return made_once("ran", _run_stages)


def _run_stages(folder):
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.chdir(folder)
        # What `set_up` sets outlives the test; here it is the results' form that matters, not their bytes.
        patch.setattr("vae.device.set_up", torch.device)
        change(**SMALL)
        for name in ("download", "prepare", "classify", "train", "evaluate", "sample", "embed", "plot"):
            assert execute(patch, name) == 0, name


@pytest.fixture
def copied(ran, project):
    """The working folder, with its own copy of what those stages left."""
    for path in ran.rglob("*"):
        if path.is_file():
            target = project / path.relative_to(ran)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return project
