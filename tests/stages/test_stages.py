import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import stages
from vae.errors import DamagedFile, InputError, Interrupted, MissingFile, SettingError, WorkError
from vae.settings import load_settings

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


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which every stage but the last ran on the digits."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.chdir(folder)
        # What `set_up` sets outlives the test; here it is the results' form that matters, not their bytes.
        patch.setattr("vae.device.set_up", torch.device)
        change(**SMALL)
        for name in ("download", "prepare", "classify", "train", "evaluate", "sample", "embed", "plot"):
            assert execute(patch, name) == 0, name
    return folder


@pytest.fixture
def copied(ran, project):
    """The working folder, with its own copy of what those stages left."""
    for path in ran.rglob("*"):
        if path.is_file():
            target = project / path.relative_to(ran)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return project


# Wrong settings

MISTAKES = {
    "unknown key": ("train:\n", "train:\n  epoch: 3\n", "train.epoch: unknown key, got 3; did you mean epochs? "),
    "wrong type": ("  dpi: ", "  dpi: high #", "plot.dpi: got 'high', allowed: a whole number at least 50 and at most"),
    "out of range": ("  particles: ", "  particles: 0 #", "train.particles: got 0, allowed: a whole number at least 1"),
    "repeated key": ("train:\n", "train:\n  epochs: 3\n", "train.epochs: repeated on lines "),
    "no YAML": ("train:", "train: [", "not valid YAML: "),
    "another document": ("download:", "--- 3\n---\ndownload:", "not valid YAML: expected a single document"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_refuses_wrong_settings_with_one_message_and_status_2(project, refusal, name, mistake):
    found, replacement, expected = MISTAKES[mistake]
    text = Path("params.yaml").read_text()
    assert text.count(found) == 1
    Path("params.yaml").write_text(text.replace(found, replacement))
    status, message = refusal(name)
    assert status == 2
    assert message.startswith(f"params.yaml: {expected}")


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_says_that_params_yaml_is_missing(project, refusal, name):
    Path("params.yaml").unlink()
    expected = "params.yaml: not found; run from the project's root"
    assert refusal(name) == (2, expected)


@pytest.mark.parametrize("argument", ["--epochs=3", "--help", "params.yaml"])
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_refuses_arguments(project, refusal, name, argument):
    assert refusal(name, argument) == (2, f"{argument}: a stage takes no arguments; its settings are in params.yaml")


@pytest.mark.slow
def test_a_refusal_reaches_the_shell(project):
    change(train={"epochs": 0})
    finished = subprocess.run(
        [sys.executable, "-m", "stages.train"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = "error: params.yaml: train.epochs: got 0, allowed: a whole number at least 1 and at most 100000\n"
    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", expected)


# Missing and damaged inputs

FIRST_INPUTS = {
    "prepare": "data/raw/train-images-idx3-ubyte.gz",
    "classify": "data/prepared/train.safetensors",
    "train": "data/prepared/train.safetensors",
    "evaluate": "data/model.safetensors",
    "sample": "data/model.safetensors",
    "embed": "data/latents.npz",
    "plot": "data/prepared/test.safetensors",
    "report": "data/model.safetensors",
}
INPUTS = [
    ("prepare", "data/raw/digits.npz"),
    ("classify", "data/prepared/train.safetensors"),
    ("classify", "data/prepared/test.safetensors"),
    ("train", "data/prepared/train.safetensors"),
    ("train", "data/prepared/test.safetensors"),
    ("evaluate", "data/prepared/train.safetensors"),
    ("evaluate", "data/prepared/test.safetensors"),
    ("evaluate", "data/model.safetensors"),
    ("sample", "data/prepared/train.safetensors"),
    ("sample", "data/prepared/test.safetensors"),
    ("sample", "data/model.safetensors"),
    ("sample", "data/classifier.safetensors"),
    ("embed", "data/prepared/test.safetensors"),
    ("embed", "data/latents.npz"),
    ("plot", "data/prepared/test.safetensors"),
    ("plot", "data/model.safetensors"),
    ("plot", "data/latents.npz"),
    ("plot", "data/samples.npz"),
    ("plot", "data/snapshots.npz"),
    ("plot", "plots/history.csv"),
    ("plot", "plots/embedding.csv"),
    ("report", "data/prepared/test.safetensors"),
    ("report", "data/model.safetensors"),
    ("report", "plots/error_by_class.csv"),
]


def test_the_inputs_that_are_taken_away_below_are_all_inputs():
    def is_data(path):
        return path.startswith(("data/", "plots/")) and path != "plots/images"  # none of them in particular

    declared = {(name, path) for name, stage in PIPELINE.items() for path in stage["deps"] if is_data(path)}
    known = {(name, dep) for name, path in INPUTS for dep in PIPELINE[name]["deps"] if Path(path).is_relative_to(dep)}
    assert known == declared


@pytest.mark.parametrize("name", FIRST_INPUTS)
def test_a_stage_in_an_empty_folder_says_what_is_missing(project, refusal, name):
    change(train={"device": "cpu"})
    assert refusal(name) == (2, f"{FIRST_INPUTS[name]}: not found; run `dvc repro` to create it")


@pytest.mark.parametrize(("name", "path"), INPUTS)
def test_a_missing_input_is_reported_by_name(copied, refusal, name, path):
    Path(path).unlink()
    assert refusal(name) == (2, f"{path}: not found; run `dvc repro` to create it")


@pytest.mark.parametrize("damage", [b"", b"\xff\0\xfe" * 100])
@pytest.mark.parametrize(("name", "path"), [*INPUTS, ("train", "data/prepared/validation.safetensors")])
def test_a_damaged_input_is_reported_by_name(copied, refusal, name, path, damage):
    Path(path).write_bytes(damage)
    status, message = refusal(name)
    assert status == 2
    assert message.startswith(f"{path}: damaged (")
    assert message.endswith("); delete it and run `dvc repro`")


def test_a_page_without_pictures_is_refused(copied, refusal):
    for path in Path("plots/images").glob("*.png"):
        path.unlink()
    assert refusal("report") == (2, "plots/images: no pictures; run `dvc repro` to recreate it")


def test_the_last_stage_runs_on_what_the_others_left(copied, monkeypatch):
    assert execute(monkeypatch, "report") == 0
    assert Path("plots/report.html").stat().st_size > 100_000


# Other ends


def end(error):
    """Run a stage that raises this error, and return its exit status."""

    def stage(settings):
        raise error

    with pytest.raises(SystemExit) as ended:
        stages.run(stage)
    return ended.value.code


@pytest.fixture
def alone(project, monkeypatch):
    """A project, and no arguments on the command line."""
    monkeypatch.setattr(sys, "argv", ["stages/some.py"])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("data/x: not found"), 2, "data/x: not found"),
        (MissingFile("data/x"), 2, "data/x: not found; run `dvc repro` to create it"),
        (DamagedFile("data/x", "cut"), 2, "data/x: damaged (cut); delete it and run `dvc repro`"),
        (SettingError("train.device", "got 'cuda'"), 2, "params.yaml: train.device: got 'cuda'"),
        (WorkError("the loss is not finite"), 1, "the loss is not finite"),
        (WorkError("several\nlines"), 1, "several\nlines"),
        (OSError(28, "No space left on device", "data/x"), 1, "data/x: No space left on device"),
        (PermissionError(13, "Permission denied", "data/x"), 1, "data/x: Permission denied"),
        (OSError(5, "Input/output error"), 1, "input or output: Input/output error"),
        (OSError("a reason alone"), 1, "input or output: a reason alone"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(signal.SIGINT, "stopped by SIGINT"), 130, "stopped by SIGINT"),
        (Interrupted(signal.SIGTERM, "stopped by SIGTERM"), 143, "stopped by SIGTERM"),
    ],
)
def test_each_kind_of_error_has_its_exit_status(alone, capsys, error, status, message):
    assert end(error) == status
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_a_mistake_in_the_code_is_not_hidden(alone):
    with pytest.raises(ZeroDivisionError):
        end(ZeroDivisionError())


def test_a_stage_that_ends_well_says_nothing_and_gets_the_settings(alone, capsys):
    given = []
    stages.run(given.append)
    assert given == [load_settings(ROOT / "params.yaml")]
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_is_reported_with_the_file_and_leaves_the_old_one(copied, refusal, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert refusal("embed") == (1, "plots/embedding.csv: No space left on device")


def test_a_file_where_a_folder_should_be_is_reported_by_name(project, refusal):
    change(**SMALL)
    Path("data").write_text("a file")
    status, message = refusal("download")
    assert status == 1
    assert message.startswith("data")
