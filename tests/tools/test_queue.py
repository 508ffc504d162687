"""Workers of DVC's queue: what of the machine each has, and that their runs end well."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.checkouts import ENVIRONMENT, ROOT, call, contents, rewrite
from tests.test_orphans import processes, wait_for
from tests.test_readme import blocks
from tools import queue
from tools.queue import shares, start
from vae.files import read_tensors

STAGE = """
import json, os, time
json.dump({"threads": int(os.environ["OMP_NUM_THREADS"]), "gpu": int(os.environ["CUDA_VISIBLE_DEVICES"])},
          open("metrics.json", "w"))
while not os.path.exists(os.environ["BOTH_RUN"]):
    open(os.environ["RUNNING"] + "/" + str(os.getpid()), "w").close()
    time.sleep(0.1)
    if len(os.listdir(os.environ["RUNNING"])) == 2:
        open(os.environ["BOTH_RUN"], "w").close()
"""


@pytest.mark.parametrize(
    ("cores", "asked", "jobs", "threads"),
    [(8, "", 2, "4"), (8, "3", 2, "3"), (8, "6", 2, "4"), (2, "", 3, "1"), (64, "", 2, "32"), (8, "no", 1, "8")],
)
def test_cores_are_divided_and_what_the_user_asks_for_is_the_most(monkeypatch, cores, asked, jobs, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert shares(jobs) == [{"OMP_NUM_THREADS": threads}] * jobs


@pytest.mark.parametrize(
    ("visible", "count", "jobs", "expected"),
    [
        (None, 0, 2, [None, None]),
        (None, 1, 2, [None, None]),
        (None, 2, 3, ["0", "1", "0"]),
        ("3,GPU-5", 2, 2, ["3", "GPU-5"]),
        ("", 0, 1, [None]),
    ],
)
def test_each_worker_has_a_gpu_of_its_own_where_there_are_several(monkeypatch, visible, count, jobs, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [share.get("CUDA_VISIBLE_DEVICES") for share in shares(jobs)] == expected


def left(folder: Path) -> list[str]:
    """The workers and runs of a folder's queue that have not ended."""
    return [command for command in processes(folder) if re.search(r" exp (queue-worker|exec-run) |stages\.", command)]


@pytest.fixture
def workers(monkeypatch):
    """Give a function that makes a folder the working one; at the end no worker of its queue is left."""
    folders = []

    def work_in(folder):
        folders.append(folder)
        monkeypatch.chdir(folder)
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        return folder

    yield work_in
    for folder in folders:
        subprocess.run(("dvc", "queue", "stop", "--kill"), cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        wait_for(lambda folder=folder: not left(folder), 60)


def names_and_metrics(folder: Path) -> dict[str, dict]:
    found = {}
    for base in json.loads(call(folder, "dvc", "exp", "show", "--json")):
        for experiment in base["experiments"] or []:
            files = experiment["revs"][0]["data"]["metrics"].values()
            found[experiment["name"]] = {name: value for file in files for name, value in file.get("data", {}).items()}
    return found


def wait_until_done(folder: Path, *names: str) -> None:
    """Wait until experiments have succeeded, for as long as possible without DVC, which would take a core from them."""

    def found() -> set[str]:
        return {ref.rpartition("/")[2] for ref in call(folder, "git", "for-each-ref", "refs/exps").split()}

    def done() -> bool:
        status = call(folder, "dvc", "queue", "status")
        assert "Failed" not in status
        return "Queued" not in status and "Running" not in status

    # Not the other way round: a run that a worker is just taking from the queue is in neither state.
    wait_for(lambda: found() >= set(names), 240)
    wait_for(done, 60)


@pytest.mark.slow
def test_two_workers_run_at_once_and_each_has_its_own_variables(workers, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "stage.py").write_text(STAGE)
    stage = {"cmd": "python stage.py", "deps": ["stage.py"], "params": ["seed"]}
    pipeline = {"stages": {"only": stage | {"metrics": [{"metrics.json": {"cache": False}}]}}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    (folder / "params.yaml").write_text("seed: 0\n")
    call(folder, "git", "init", "--quiet", "--initial-branch=main")
    call(folder, "dvc", "init", "--quiet")
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--message=Pipeline")
    call(folder, "dvc", "exp", "run", "--queue", "--name", "run", "--set-param", "seed=1,2")
    workers(folder)
    (tmp_path / "running").mkdir()
    monkeypatch.setenv("RUNNING", str(tmp_path / "running"))
    monkeypatch.setenv("BOTH_RUN", str(tmp_path / "both"))
    start([{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("5", "7")])
    wait_until_done(folder, "run-1", "run-2")
    metrics = names_and_metrics(folder)
    assert set(metrics) == {"run-1", "run-2"}
    assert sorted(found["gpu"] for found in metrics.values()) == [5, 7]
    assert [found["threads"] for found in metrics.values()] == [3, 3]


@pytest.mark.slow
def test_two_workers_give_a_grid_of_queued_code_the_results_of_runs_one_by_one(checkout: Path, workers, monkeypatch):
    pages = "\n".join(text for _, text in blocks(ROOT / "docs/scaling.md"))
    grid, command = (
        re.search(pattern, pages, re.MULTILINE)[0].split()
        for pattern in ("^dvc exp run --queue .*", r"^python -m tools\.queue .*")
    )
    rewrite(checkout, "stages/train.py", r'"epochs": progress\.epoch,', '"epochs": progress.epoch + 100,')
    call(checkout, *grid, "--set-param", "train.epochs=2", "train")
    call(checkout, "git", "checkout", "--quiet", ".")  # what was queued is the code as it was then
    workers(checkout)
    started = subprocess.run(command, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    assert started.stdout.startswith("worker 1: OMP_NUM_THREADS=")
    threads = started.stdout.split()[2].split("=")[1]
    wait_until_done(checkout, "grid-1", "grid-2")
    assert not list(checkout.glob(".dvc/tmp/exps/tmp*"))
    metrics = names_and_metrics(checkout)
    monkeypatch.setitem(ENVIRONMENT, "OMP_NUM_THREADS", threads)
    for number, rate in enumerate(("0.001", "0.002"), 1):
        call(checkout, "dvc", "exp", "apply", f"grid-{number}")
        queued = contents(checkout, "data/model.safetensors", "plots/history.csv", "metrics/train.json")
        assert f"learning_rate: {rate}" in (checkout / "params.yaml").read_text()
        assert read_tensors(checkout / "data/model.safetensors")[1]["epochs"] == 102
        call(checkout, "python", "-m", "stages.train")
        assert contents(checkout, *queued) == queued
        assert json.loads(queued["metrics/train.json"]).items() <= metrics[f"grid-{number}"].items()


@pytest.mark.parametrize("jobs", ["0", "two"])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, capsys, jobs):
    monkeypatch.setattr(sys, "argv", ["tools/queue.py", "--jobs", jobs])
    with pytest.raises(SystemExit) as ended:
        queue.main()
    assert ended.value.code == 2
    assert "--jobs: invalid" in capsys.readouterr().err


def test_an_empty_queue_and_workers_that_run_are_one_message(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools/queue.py"])
    for status, message in (((0, 0), "nothing is queued"), ((3, 2), "2 workers are already running")):
        monkeypatch.setattr(queue, "status", lambda status=status: status)
        with pytest.raises(SystemExit) as ended:
            queue.main()
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_worker_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setattr(queue, "PATIENCE", 0)
    monkeypatch.setattr(queue, "status", lambda: (1, 0))
    monkeypatch.setattr(queue, "call_dvc", lambda *arguments, **variables: "")
    with pytest.raises(queue.WorkError, match=r"worker 1 .*\n?.*dvc-exp-worker-1\.out"):
        start([{"CUDA_VISIBLE_DEVICES": gpu} for gpu in "01"])
