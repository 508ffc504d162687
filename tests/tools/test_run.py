"""Runs in folders: what is removed, what is refused, and how settings are read on the way."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import posix_only
from tools import run
from vae.errors import InputError
from vae.files import read_arrays, write_arrays, write_json
from vae.identity import code_identity

ROOT = Path(__file__).resolve().parents[2]

pytestmark = posix_only


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The files that a run copies, in a folder with a neighbor, as the working folder; no stage ever starts."""
    folder = tmp_path / "parent/project"
    for name in (*run.PROJECT, "experiments", ".dvc/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, folder / name)
    for name in (".git/HEAD", "data/raw/digits.npz", "docs/page.md", ".runs/old/result", ".demo/mine", "../other/file"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    (folder / "data/empty").mkdir()
    (folder / "link").symlink_to(folder / "docs")
    (folder / ".runs/link").symlink_to(tmp_path / "parent/other")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(run, "_call", lambda *arguments, folder: None)
    monkeypatch.setattr(run, "metrics_table", lambda folder: "")
    return folder


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def main(monkeypatch, *arguments):
    """Do what `python -m tools.run` does, and return the exit status."""
    monkeypatch.setattr(sys, "argv", ["tools/run.py", *arguments])
    try:
        run.main()
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.fault
@pytest.mark.parametrize(
    "folder",
    [
        *("", ".", "./", "..", "../..", ".git", "data", "data/empty", "data/new", "docs", "stages", "link", "new"),
        *(".runs", ".runs/old", ".runs/link", ".runs/../docs", ".demo", "../other", "../project", "params.yaml"),
        "../project/../project",
    ],
)
def test_no_folder_is_removed_that_no_run_made(project, monkeypatch, capsys, folder):
    before = contents(project.parent)
    assert main(monkeypatch, "demo", "--folder", folder) == 2
    assert contents(project.parent) == before
    message = capsys.readouterr().err
    assert message.startswith("error: --folder")
    assert message.count("\n") == 1


@pytest.mark.parametrize("folder", [".runs/new", ".runs/deep/new", "../new", "../empty"])
def test_a_folder_of_its_own_is_made_and_made_anew(project, monkeypatch, folder):
    (project.parent / "empty").mkdir()
    before = contents(project.parent)
    for _ in range(2):
        assert main(monkeypatch, "demo", "--folder", folder) == 0
        assert (Path(folder) / run.MARKER).is_file()
        assert (Path(folder) / "stages/train.py").is_file()
        assert not (Path(folder) / "data").exists(), "what an earlier run left is gone"
        (Path(folder) / "data").mkdir()
        (Path(folder) / "data/link").symlink_to(project / "docs")
        (Path(folder) / "docs").symlink_to(project / "docs")
    assert before.items() <= contents(project.parent).items()


@pytest.mark.parametrize(("text", "value"), [("010", 10), ("1e-3", 0.001), ("1_000", None), ("0x10", None)])
def test_numbers_mean_what_they_mean_in_the_stages(project, monkeypatch, text, value):
    key = "learning_rate" if "e" in text else "epochs"
    status = main(monkeypatch, "demo", "--folder", ".runs/new", "-S", f"train.{key}={text}")
    assert status == (0 if value else 2)
    if value:
        assert float(yaml.safe_load(Path(".runs/new/params.yaml").read_text())["train"][key]) == value


@pytest.mark.fault
@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("train.epochs=[", "-S train.epochs=[: not valid YAML"),
        ("train.epochs=", "train.epochs: got None, allowed: a whole number"),
        ("train.epochs", "allowed: SECTION.KEY=VALUE"),
        ("epochs=3", "allowed: SECTION.KEY=VALUE"),
        ("=", "allowed: SECTION.KEY=VALUE"),
        ("train.epochs=!!bool x", "not valid YAML: KeyError"),
        ("nothing.epochs=3", "nothing: unknown key"),
    ],
)
def test_a_wrong_assignment_is_one_message(project, monkeypatch, capsys, assignment, reason):
    assert main(monkeypatch, "demo", "-S", assignment) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1, 2]", "3", "train: 3", "train: [epochs]", "train: {", "train: {epochs: 1x}"])
def test_an_experiment_of_another_form_is_refused_by_its_name(project, text):
    Path("experiments/demo.yaml").write_text(text)
    with pytest.raises(InputError, match=r"experiments/demo\.yaml: "):
        run.read_experiment("demo")


@pytest.fixture
def ran(project):
    """The folder of a run that is over: its settings, metrics, test images and NLLs."""
    run.run_in(folder := Path(".runs/new"), {"train": {"seed": 5}}, recorded=True)
    for name in ("train", "evaluate"):
        write_json(folder / f"metrics/{name}.json", {f"{name}_value": 1.5})
    (folder / "data/prepared").mkdir(parents=True)
    (folder / "data/prepared/test.safetensors").write_bytes(b"pixels")
    write_arrays(folder / "data/latents.npz", {"nll": np.arange(3, dtype=np.float32), "mean": np.zeros(3)})
    return folder


def test_a_record_holds_metrics_nlls_test_images_and_code(ran):
    run.record("short/vae-k1", ran, 7.04)
    path = Path("experiments/results/short-vae-k1-seed5.json")
    kept = json.loads(path.read_text())
    assert (kept["metrics"], kept["seconds"]) == ({"train_value": 1.5, "evaluate_value": 1.5}, 7.0)
    assert kept["settings"]["train"]["seed"] == 5
    assert kept["test_images"] == hashlib.sha256(b"pixels").hexdigest()
    assert kept["code"] == {name: code_identity(ROOT / name) for name in run.CODE}
    arrays = read_arrays(path.with_suffix(".npz"))
    assert list(arrays) == ["nll"]
    np.testing.assert_array_equal(arrays["nll"], [0, 1, 2])


def test_a_records_code_is_that_which_ran(ran):
    run.record("short/vae-k1", ran, 1)
    before = json.loads(run.record_path("short/vae-k1", 5).read_text())["code"]
    with (ran / "vae/model/bounds.py").open("a") as file:
        file.write("x = 1\n")
    run.record("short/vae-k1", ran, 1)
    after = json.loads(run.record_path("short/vae-k1", 5).read_text())["code"]
    assert {name for name in before if before[name] != after[name]} == {"vae/model"}


def test_the_code_of_a_record_is_what_its_stages_depend_on():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    paths = [path for stage in run.RECORDED for path in stages[stage]["deps"] if path.startswith(("stages", "vae"))]
    for path in paths:
        assert any(path == known or path.startswith(f"{known}/") for known in run.CODE), path


@pytest.mark.parametrize("with_dvc", [True, False])
def test_a_recorded_run_ends_with_the_evaluation(project, monkeypatch, with_dvc):
    calls = []
    monkeypatch.setattr(run, "_call", lambda *arguments, folder: calls.append(arguments[1:]))
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: with_dvc or None)
    run.run_in(Path(".runs/new"), {}, recorded=True)
    assert calls[-1] == (("dvc", "repro", "evaluate") if with_dvc else ("stages.evaluate",))
    assert with_dvc or calls == [(f"stages.{stage}",) for stage in run.RECORDED]
