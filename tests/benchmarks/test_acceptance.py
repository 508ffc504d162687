import json
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import acceptance
from benchmarks.acceptance import Failed, Part, command, run_parts
from tests.conftest import ROOT

ABOUT = {"date": "2030-01-31", "machine": {"gpu": "a card"}, "versions": {"torch": "9"}}


def tiny(name, code, seconds=60, **options):
    """A part that runs a line of Python."""
    return Part(name, seconds, lambda allowed: {"said": command(["-c", code], allowed, **options).strip()})


@pytest.fixture
def output(tmp_path):
    return tmp_path / "acceptance.json"


def rows(output):
    return json.loads(output.read_text())["parts"]


# --- A command


def test_a_command_gives_what_it_printed():
    assert command(["-c", "print('one'); print('two')"], 60) == "one\ntwo\n"


def test_a_command_that_fails_gives_its_status_and_last_words():
    with pytest.raises(Failed, match=r"exit status 3\nlast words$"):
        command(["-c", "print('last words'); raise SystemExit(3)"], 60)


def test_a_command_that_hangs_is_ended_with_its_children():
    # The child holds the output open too: without its end, reading would take a minute.
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    start = time.monotonic()
    with pytest.raises(Failed, match="did not end within 2 seconds"):
        command(["-c", code], 2)
    assert time.monotonic() - start < 30


STOPPABLE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
for number in range(200):
    print("epoch", number, flush=True)
    time.sleep(0.1)
"""


def test_a_command_is_stopped_at_a_line():
    printed = command(["-c", STOPPABLE], 60, stop_at="epoch 2")
    assert "epoch 2\n" in printed
    assert "epoch 199" not in printed


def test_a_command_that_was_over_before_it_could_be_stopped_fails():
    with pytest.raises(Failed, match="exit status 0"):
        command(["-c", "print('over')"], 60, stop_at="epoch 2")


# --- Parts


def test_a_part_that_fails_is_named_and_the_next_one_runs(output, capsys):
    todo = [
        tiny("good", "print(42)"),
        tiny("bad", "raise SystemExit('no luck')"),
        tiny("slow", "import time; time.sleep(60)", seconds=2),
        Part("broken", 60, lambda _: {}["missing"]),
        tiny("last", "print(43)"),
    ]
    assert not run_parts(todo, ABOUT, output)
    assert [(row["part"], row["status"]) for row in rows(output)] == [
        ("good", "passed"),
        ("bad", "failed"),
        ("slow", "failed"),
        ("broken", "failed"),
        ("last", "passed"),
    ]
    good, bad, slow, broken, last = rows(output)
    assert (good["said"], last["said"]) == ("42", "43")
    assert "no luck" in bad["reason"]
    assert "did not end within 2 seconds" in slow["reason"]
    assert "KeyError: 'missing'" in broken["reason"]
    assert "2/5 bad: failed" in capsys.readouterr().out
    page = output.with_suffix(".md").read_text()
    for text in ("# Acceptance on 2030-01-31", "gpu a card, torch 9", "## bad: failed", "no luck", "- said: 43"):
        assert text in page


def test_every_part_is_written_as_soon_as_it_is_known(output):
    seen = []
    spy = Part("spy", 60, lambda _: seen.append([row["part"] for row in rows(output)]) or {"value": 0.123456789})
    assert run_parts([tiny("first", "pass"), spy], ABOUT, output)
    assert seen == [["first"]]
    assert "- value: 0.123457" in output.with_suffix(".md").read_text()


def test_what_no_time_is_left_for_is_named(output):
    todo = [Part("long", 60, lambda allowed: time.sleep(0.2) or {"allowed": allowed}), tiny("late", "pass")]
    assert not run_parts(todo, ABOUT, output, allowed=0.1)
    long, late = rows(output)
    assert long["allowed"] <= 0.1
    assert late["status"] == "not run"
    assert "were over" in late["reason"]


# --- The command


def test_without_a_gpu_it_says_so_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert acceptance.main(["--output", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert len((captured.out + captured.err).splitlines()) == 1
    assert "no GPU" in captured.err
    assert not list(tmp_path.iterdir())


def test_all_that_it_should_prove_is_among_the_parts(tmp_path):
    names = [part.name for part in acceptance.parts(acceptance.Project(tmp_path, small=False), tmp_path)]
    assert names == [
        "tests",
        "preparation",
        "training",
        "training again",
        "training interrupted",
        "classify",
        "evaluate",
        "sample",
        "training, tf32",
        "training, bfloat16",
        "benchmark",
        "training, eager",
    ]


def test_other_bytes_than_the_first_trainings_fail(tmp_path, monkeypatch):
    project = acceptance.Project(tmp_path, small=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/train.json").write_text('{"train_elbo": -1.5}')
    project.settings = {"train": {"epochs": 3}}
    contents = iter([b"one", b"one", b"two", b"two"])
    monkeypatch.setattr(
        project, "stage", lambda *_, **__: (tmp_path / "data/model.safetensors").write_bytes(next(contents))
    )
    first, again = project.train(60), project.train(60)
    assert first["sha256"] == again["sha256"]
    assert first["train_elbo"] == -1.5
    with pytest.raises(Failed, match="other bytes than the first training"):
        project.train(60)
    assert project.train(60, compared=False, precision="tf32")["sha256"] != first["sha256"]


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_passes(tmp_path):
    """The stages' twin on the CPU: trained twice and once interrupted, to the same bytes, then judged."""
    call = [sys.executable, "-m", "benchmarks.acceptance", "--rehearse", "--output", str(tmp_path)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=600)
    (written,) = tmp_path.glob("*.json")
    assert done.returncode == 0, written.read_text()
    results = {row["part"]: row for row in rows(written)}
    assert len({results[name]["sha256"] for name in ("training", "training again", "training interrupted")}) == 1
    assert "stopped by SIGTERM" in results["training interrupted"]["stopped"]
    assert results["evaluate"]["test_nll"] > 0


IMPORTS = """
import sys
for name in ("torchvision", "dvc"):
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(["--collect-only", "-m", "cuda", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_the_tests_for_a_gpu_need_neither_torchvision_nor_dvc():
    call = [sys.executable, "-c", IMPORTS, *acceptance.TESTS]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_captured_graphs_agree_with_eager_steps" in done.stdout
