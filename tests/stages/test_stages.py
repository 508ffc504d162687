"""What all stages have in common: how they refuse settings and arguments, and the exit status of each error."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import stages
from tests.stages.conftest import ROOT, SMALL, STAGES, change
from vae.errors import DamagedFile, InputError, Interrupted, MissingFile, SettingError, WorkError
from vae.settings import load_settings

# Wrong settings

MISTAKES = {
    "unknown key": ("train:\n", "train:\n  epoch: 3\n", "train.epoch: unknown key, got 3; did you mean epochs? "),
    "wrong type": ("  dpi: ", "  dpi: high #", "plot.dpi: got 'high', allowed: a whole number at least 50 and at most"),
    "out of range": ("  particles: ", "  particles: 0 #", "train.particles: got 0, allowed: a whole number at least 1"),
    "repeated key": ("train:\n", "train:\n  epochs: 3\n", "train.epochs: repeated on lines "),
    "no YAML": ("train:", "train: [", "not valid YAML: "),
    "another document": ("download:", "--- 3\n---\ndownload:", "not valid YAML: expected a single document"),
}


@pytest.mark.fault
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


def test_a_file_where_a_folder_should_be_is_reported_by_name(project, refusal):
    change(**SMALL)
    Path("data").write_text("a file")
    status, message = refusal("download")
    assert status == 1
    assert message.startswith("data")
