"""The command that compares a run with the record."""

from pathlib import Path

import pytest

from tests.tools.conftest import RECORD, run_tool, write_record
from tools.record import compare


def test_a_run_within_the_tolerances_agrees(recorded: Path) -> None:
    write_record(recorded, RECORD | {"test_nll": 84.8635, "test_nll_stderr": 9, "frechet_distance_real": 9})
    assert [(row.metric, row.agrees) for row in compare(recorded)] == [("test_nll", True), ("frechet_distance", True)]
    done = run_tool("verify", recorded)
    assert (done.returncode, done.stderr) == (0, "")
    assert "| test_nll         | 84.8635 |  84.86 |    +0.0035 |      0.05 | yes    |" in done.stdout
    assert done.stdout.endswith("\nThe run agrees with the record: each of 2 metrics is within its tolerance.\n")


def test_a_run_beyond_a_tolerance_is_reported_with_its_difference(recorded: Path) -> None:
    write_record(recorded, {"test_nll": 84.5, "new": 1.0})
    done = run_tool("verify", recorded)
    assert done.returncode == 1
    assert done.stdout.endswith(
        "\nThe run differs from the record by more than the tolerance: test_nll (-0.36), frechet_distance (missing), "
        "new (missing).\n"
    )


def test_other_settings_are_named_and_not_compared(recorded: Path) -> None:
    write_record(recorded, RECORD, epochs=5, checkpoint_every=1)
    done = run_tool("verify", recorded)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: params.yaml: settings differ from the record's: train.epochs (50, here 5)\n"
    shown = run_tool("show", recorded).stdout
    assert shown.endswith("\nNot compared with the record: params.yaml: settings differ from the record's: "
                          "train.epochs (50, here 5).\n")  # fmt: skip


@pytest.mark.parametrize("change", ["no report", "no model", "another model"])
def test_a_run_that_is_not_finished_is_refused(recorded: Path, change: str) -> None:
    if change == "another model":
        (recorded / "data/model.safetensors").write_bytes(b"others")
    else:
        (recorded / {"no report": "plots/report.html", "no model": "data/model.safetensors"}[change]).unlink()
    done = run_tool("verify", recorded)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: plots/report.html: no finished run; run `make repro`\n"
