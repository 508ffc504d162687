"""Which runs of the short experiments are missing, and how they are started; no stage runs here."""

import json
import subprocess
import sys

import pytest

from tools import orders, results, run


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Give a function that records a run of some code, in a folder that starts empty."""
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "code", lambda folder: {"vae": "now"})
    monkeypatch.setattr(results, "main", lambda: None)
    return lambda name, seed, code: run.record_path(name, seed).write_text(json.dumps({"code": {"vae": code}}))


@pytest.fixture
def started(tmp_path, monkeypatch):
    """The commands that are started, each of which succeeds unless its experiment is in `failing`."""
    monkeypatch.chdir(tmp_path)
    commands, failing = [], set()

    def start(command, env, **_):
        commands.append((command, env))
        return subprocess.CompletedProcess(command, int(command[3] in failing))

    monkeypatch.setattr(subprocess, "run", start)
    return commands, failing


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tools/orders.py", *arguments])
    try:
        orders.main()
    except SystemExit as ended:
        return ended.code
    return 0


def test_what_the_present_code_has_not_recorded_is_missing(records):
    assert len(orders.missing()) == 8 * 3
    records("short/vae-k1", 0, "now")
    records("short/vae-k1", 2, "before")
    missing = orders.missing()
    assert len(missing) == 8 * 3 - 1
    assert ("short/vae-k1", 0) not in missing
    assert ("short/vae-k1", 2) in missing


def test_each_missing_run_is_started_once_in_a_folder_that_no_other_uses(records, started, monkeypatch):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    (orders.RAW).mkdir(parents=True)
    records("short/vae-k1", 0, "now")
    assert main(monkeypatch, "--jobs", "2") == 0
    commands, _ = started
    assert len({(command[3], command[7]) for command, _ in commands}) == len(commands) == 8 * 3 - 1
    assert {command[5] for command, _ in commands} <= {".runs/orders-0", ".runs/orders-1"}
    assert all(command[-1] == "--record" for command, _ in commands)
    assert {env["MNIST_MIRROR"] for _, env in commands} == {str(orders.RAW.resolve())}


def test_a_run_that_fails_is_named_and_the_others_are_run(records, started, monkeypatch, capsys):
    commands, failing = started
    failing.add("short/vampprior")
    assert main(monkeypatch) == 1
    assert len(commands) == 8 * 3
    assert (
        capsys.readouterr().err
        == "error: failed: " + "; ".join(f"short/vampprior, seed {seed}" for seed in range(3)) + "\n"
    )
