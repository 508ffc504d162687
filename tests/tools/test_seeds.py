"""Several seeds in DVC's queue, and their metrics' mean and spread."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.checkouts import ENVIRONMENT, ROOT, call, keep_stages
from tools.seeds import count, summary

pytestmark = pytest.mark.slow

STAGE = """
import json, pathlib, yaml
settings = yaml.safe_load(open("params.yaml"))["train"]
assert settings["seed"] != settings["unlucky"]
json.dump({"score": settings["seed"] * settings["scale"]}, open("metrics/train.json", "w"))
json.dump({"same": 2.5}, open("metrics/evaluate.json", "w"))
"""
PIPELINE = {
    "stages": {
        "train": {
            "cmd": "mkdir -p metrics && python stage.py",
            "deps": ["stage.py"],
            "params": ["train"],
            "metrics": [{f"metrics/{name}.json": {"cache": False}} for name in ("train", "evaluate")],
        }
    }
}


@pytest.fixture(scope="module")
def committed_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of one stage that is done in an instant, its result committed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    (folder / "params.yaml").write_text(yaml.safe_dump({"train": {"seed": 9, "scale": 10, "unlucky": -1}}))
    call(folder, "git", "init", "--quiet", "--initial-branch=main")
    call(folder, "dvc", "init", "--quiet")
    call(folder, "dvc", "repro", "--quiet")
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--message=Results")
    return folder


@pytest.fixture
def project(committed_project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(committed_project, tmp_path / "project"))


def seeds(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.seeds", *arguments]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def cells(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {name: values for name, *values in rows[2:]}


def test_a_summary_has_the_mean_and_the_samples_deviation_of_what_each_run_has() -> None:
    rows = {row["metric"]: row for row in summary([{"a": 1.0, "b": 5.0}, {"a": 2.0}, {"a": 6.0}])}
    # By hand: mean 9 / 3, squared deviations 4 + 1 + 9 over 3 - 1.
    assert rows["a"] == {"metric": "a", "mean": 3.0, "deviation": pytest.approx(7**0.5, rel=1e-12), "n": 3}
    assert rows["b"] == {"metric": "b", "mean": 5.0, "deviation": None, "n": 1}
    assert summary([]) == []


def test_seeds_that_fail_are_named_and_do_not_count(project: Path) -> None:
    done = seeds(project, "3", "-S", "train.scale=100", "-S", "train.unlucky=1")
    assert done.returncode == 1
    # Of seeds 0 and 2, without the 90 of the commit that seed 1 started from and failed.
    assert cells(done.stdout) == {
        "score": ["100.0000", f"{statistics.stdev([0, 200]):.4f}", "2"],
        "same": ["2.5000", "0.0000", "2"],
    }
    assert "error: failed seeds: 1 (" in done.stderr
    assert call(project, "git", "status", "--short") == ""


def test_what_cannot_be_queued_is_refused(project: Path) -> None:
    several = "error: train.scale=1,2: 4 experiments for 2 seeds; give each key one value"
    unknown = "exit status 255\nERROR: "  # and what DVC says
    for assignment, status, message in (("train.scale=1,2", 2, several), ("train.nothing", 1, unknown)):
        done = seeds(project, "2", "-S", assignment)
        assert done.returncode == status
        assert message in done.stderr
        assert done.stdout == ""
    assert json.loads(call(project, "dvc", "exp", "show", "--json"))[1]["experiments"] is None


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_a_number_of_seeds_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"got '{number}', allowed: a whole number at least 1"):
        count(number)


def test_two_seeds_of_the_pipeline_differ_and_are_summed_up(checkout: Path) -> None:
    keep_stages(checkout, "download", "prepare", "train")
    call(checkout, "git", "commit", "--quiet", "--all", "--message=Train alone")
    # DVC writes this rate as 1e-05, which YAML readers may take for text.
    done = seeds(checkout, "2", "-S", "train.learning_rate=1e-5")
    assert done.returncode == 0, done.stderr
    table = cells(done.stdout)
    committed = json.loads((checkout / "metrics/train.json").read_text())
    assert set(table) == set(committed)
    assert {runs for _, _, runs in table.values()} == {"2"}
    assert float(table["validation_elbo"][0]) < committed["validation_elbo"]
    assert float(table["validation_elbo"][1]) > 0
