"""Removing what interrupted training left: what is removed, what is kept, and what is said."""

import os
import sys
from pathlib import Path

import pytest
import torch

import stages
from tests.conftest import PARAMS
from tests.stages.conftest import SMALL
from tools import checkpoints as tool
from vae.files import write_tensors
from vae.training import checkpoints

PARTS = {"settings": {"train.epochs": 1}, "threads": 1}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose prepared data are a few black images, as the working folder, and its abandoned folders."""
    import yaml

    settings = {section: keys | SMALL.get(section, {}) for section, keys in PARAMS.items()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    images = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    split = {"images": images, "labels": torch.arange(20) % 10, "originals": images.clone()}
    metadata = {"dataset": "digits", "binarization": "dynamic", "classes": [str(digit) for digit in range(10)]}
    for name in ("train", "test"):
        write_tensors(tmp_path / f"data/prepared/{name}.safetensors", split, metadata)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leave(parts, days=0.0):
    """What a run with these parts leaves when it is interrupted."""
    folder = checkpoints.claim(tool.SCRATCH, parts)
    for number in (1, 2):
        checkpoints.write(folder, {"progress": number})
    for path in folder.iterdir():
        os.utime(path, (path.stat().st_mtime - days * tool.DAY,) * 2)
    return folder


def own_parts():
    settings = tool.load_settings("params.yaml")
    data, _, metadata = tool.read_data(settings)
    return tool.identify(settings, data, metadata, tool.set_up("cpu"))


def main(monkeypatch, capsys, *arguments):
    """Do what `python -m tools.checkpoints` does: the exit status, the output and the errors."""
    monkeypatch.setattr(sys, "argv", ["tools/checkpoints.py", *arguments])
    status = 0
    try:
        tool.main()
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


@pytest.mark.fault
def test_what_cannot_be_resumed_is_listed_and_then_removed(project, monkeypatch, capsys):
    own, other = leave(own_parts()), leave(PARTS)
    status, output, error = main(monkeypatch, capsys)
    assert (status, error) == (0, "")
    assert output.startswith(f"{other.relative_to(project) if other.is_absolute() else other}: 0.0 days old, 0.0 MB; ")
    assert "it was made with different settings" in output
    assert output.count("\n") == 1
    assert other.exists()
    assert main(monkeypatch, capsys, "--remove")[1].endswith("; removed\n")
    assert not other.exists()
    assert checkpoints.read(own) == {"progress": 2}, "training resumes from it"


def test_an_age_keeps_what_is_younger(project, monkeypatch, capsys):
    old, young = leave(PARTS, days=8), leave(PARTS | {"threads": 2}, days=6)
    assert main(monkeypatch, capsys, "--remove", "--older-than", "7")[0] == 0
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["a file", "a folder", "a link", "another name"])
def test_nothing_that_training_did_not_write_is_removed(project, monkeypatch, capsys, kind):
    folder = leave(PARTS)
    if kind == "a file":
        (folder / "notes.txt").write_text("precious")
    elif kind == "a folder":
        (folder / "last.damaged").mkdir()
    elif kind == "a link":
        (project / "elsewhere").write_text("precious")
        (folder / "next.pt").symlink_to(project / "elsewhere")
    else:
        folder = folder.rename(folder.with_name("mine"))
    before = sorted(project.rglob("*"))
    status, output, error = main(monkeypatch, capsys, "--remove")
    assert (status, error) == (0, "")
    assert output.endswith("; kept, as it holds other files\n")
    assert sorted(set(project.rglob("*")) - {project / stages.LOCK}) == sorted(set(before) - {project / stages.LOCK})


def test_without_data_nothing_is_removed(project, monkeypatch, capsys):
    folder = leave(PARTS)
    Path("data/prepared/train.safetensors").unlink()
    status, output, error = main(monkeypatch, capsys, "--remove")
    assert (status, output) == (2, "")
    assert error.startswith("error: data/prepared/train.safetensors: not found; run `dvc repro prepare` first")
    assert folder.exists()


@pytest.mark.fault
def test_while_a_stage_runs_nothing_is_removed(project, monkeypatch, capsys):
    folder = leave(PARTS)
    monkeypatch.setattr(stages, "PATIENCE", 0.1)
    with stages.alone():
        status, _, error = main(monkeypatch, capsys, "--remove")
    assert (status, error.count("\n")) == (1, 1)
    assert "another stage is running in this folder" in error
    assert folder.exists()
