"""A run beside the record: the committed metrics, the tolerances, and what cannot be compared."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.checkouts import ENVIRONMENT, ROOT, call
from tools.record import TOLERANCES, Deviation, compare, deviations, read_record, verdict
from vae.errors import InputError
from vae.evaluation.measures import MEASURES

RECORD = {"test_nll": 84.86, "test_nll_stderr": 0.23, "frechet_distance": 13.79, "frechet_distance_real": 0.57}
SETTINGS = {"train": {"epochs": 50, "learning_rate": 0.003, "checkpoint_every": 5, "keep_checkpoint": False}}


def write(folder: Path, metrics: dict[str, float], **train: object) -> None:
    """Write the files of a finished run that are compared."""
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics/evaluate.json").write_text(json.dumps(metrics))
    (folder / "params.yaml").write_text(yaml.safe_dump({"train": SETTINGS["train"] | train}))


def finish(folder: Path) -> None:
    for name, contents in {"data/model.safetensors": b"weights", "plots/report.html": b""}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(contents)
    (folder / "plots/report.html").write_text(f"<td>{hashlib.sha256(b'weights').hexdigest()}</td>")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A finished run whose metrics are committed."""
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder, RECORD)
    finish(folder)
    call(folder, "git", "init", "--quiet")
    call(folder, "git", "add", "metrics", "params.yaml")
    call(folder, "git", "commit", "--quiet", "--message=Results")
    return folder


def run(tool: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The output of a tool in a folder."""
    command = [sys.executable, "-m", f"tools.{tool}"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_measure_has_a_tolerance_no_smaller_than_rounding() -> None:
    tolerances = yaml.safe_load(TOLERANCES.read_text())
    assert set(tolerances) == set(MEASURES)
    assert min(tolerances.values()) >= 0.0002


def test_the_tolerances_hold_what_two_processors_gave() -> None:
    seen = {"test_nll": (84.8604, 84.8635), "frechet_distance": (13.79, 14.41)}
    one, other = ({name: pair[place] for name, pair in seen.items()} for place in (0, 1))
    assert all(row.agrees for row in deviations(one, other))


def test_a_run_within_the_tolerances_agrees(project: Path) -> None:
    write(project, RECORD | {"test_nll": 84.8635, "test_nll_stderr": 9, "frechet_distance_real": 9})
    assert [(row.metric, row.agrees) for row in compare(project)] == [("test_nll", True), ("frechet_distance", True)]
    done = run("verify", project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| test_nll         | 84.8635 |  84.86 |    +0.0035 |      0.05 | yes    |" in done.stdout
    assert done.stdout.endswith("\nThe run agrees with the record: each of 2 metrics is within its tolerance.\n")


def test_a_run_beyond_a_tolerance_is_reported_with_its_difference(project: Path) -> None:
    write(project, {"test_nll": 84.5, "new": 1.0})
    done = run("verify", project)
    assert done.returncode == 1
    assert done.stdout.endswith(
        "\nThe run differs from the record by more than the tolerance: test_nll (-0.36), frechet_distance (missing), "
        "new (missing).\n"
    )


def test_the_table_of_a_run_shows_the_record(project: Path) -> None:
    write(project, RECORD | {"test_nll": 84.5})
    output = run("show", project).stdout
    assert "| test_nll         |  84.5 |  84.86 |       0.23 |" in output
    assert output.endswith("\nThe run differs from the record by more than the tolerance: test_nll (-0.36).\n")


def test_differences_are_compared_as_written() -> None:
    # 0.3 - 0.1 is a little more than 0.2 in binary.
    assert Deviation("a", 0.3, 0.1, 0.2).agrees
    assert not Deviation("a", 0.3001, 0.1, 0.2).agrees
    assert Deviation("unknown", 5.0, 1.0, None).agrees
    assert not Deviation("unknown", None, 1.0, None).agrees


def test_a_relaxed_bernoullis_metrics_have_the_tolerances_of_the_others() -> None:
    (row,) = deviations({"relaxed_test_nll": 100.0}, {"relaxed_test_nll": 101.0})
    assert row.tolerance == yaml.safe_load(TOLERANCES.read_text())["test_nll"]
    assert verdict([row]).endswith("relaxed_test_nll (-1).")


def test_other_settings_are_named_and_not_compared(project: Path) -> None:
    write(project, RECORD, epochs=5, checkpoint_every=1)
    done = run("verify", project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: params.yaml: settings differ from the record's: train.epochs (50, here 5)\n"
    shown = run("show", project).stdout
    assert shown.endswith("\nNot compared with the record: params.yaml: settings differ from the record's: "
                          "train.epochs (50, here 5).\n")  # fmt: skip


def test_settings_without_effect_do_not_prevent_a_comparison(project: Path) -> None:
    write(project, RECORD, checkpoint_every=1, keep_checkpoint=True)
    assert compare(project)


@pytest.mark.parametrize("change", ["no report", "no model", "another model"])
def test_a_run_that_is_not_finished_is_refused(project: Path, change: str) -> None:
    if change == "another model":
        (project / "data/model.safetensors").write_bytes(b"others")
    else:
        (project / {"no report": "plots/report.html", "no model": "data/model.safetensors"}[change]).unlink()
    done = run("verify", project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: plots/report.html: no finished run; run `make repro`\n"


def test_without_git_there_is_no_record_and_no_column(tmp_path: Path) -> None:
    write(tmp_path, RECORD)
    finish(tmp_path)
    assert read_record(tmp_path) is None
    with pytest.raises(InputError, match="no record"):
        compare(tmp_path)
    output = run("show", tmp_path).stdout
    assert "record" not in output.splitlines()[0]
    assert "Not compared with the record: metrics: no record" in output


def test_a_folder_within_a_repository_has_no_record_of_its_own(project: Path) -> None:
    (project / ".demo").mkdir()
    write(project / ".demo", RECORD)
    assert read_record(project / ".demo") is None


def test_the_committed_record_is_read(project: Path) -> None:
    write(project, {"test_nll": 1.0})
    assert read_record(project) == RECORD
