import json
import subprocess
import sys
import time

import pytest
import torch
import yaml

from benchmarks import acceptance, readme
from benchmarks.acceptance import Part, run_parts
from benchmarks.trial import Failed, Project, command
from tests.conftest import ROOT

ABOUT = {"date": "2030-01-31", "machine": {"gpu": "a card"}, "versions": {"torch": "9"}}


def tiny(name, code, seconds=60, **options):
    """A part that runs a line of Python."""
    return Part(name, seconds, lambda allowed: {"said": command(["-c", code], allowed, **options).strip()})


def fail(message, **figures):
    raise Failed(message, **figures)


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


@pytest.mark.parametrize("found", ["/usr/bin/c++", None])
def test_all_that_it_should_prove_is_among_the_parts(tmp_path, monkeypatch, found):
    monkeypatch.setattr(acceptance, "compiler", lambda: found)
    assert [part.name for part in acceptance.parts(Project(tmp_path, small=False))] == [
        "tests",
        "preparation",
        "training",
        "training again",
        "training interrupted",
        "classify",
        "evaluate",
        "sample",
        "captured steps",
        "training, tf32",
        "training, bfloat16",
        *(["compiled steps"] if found else []),
        "benchmark",
    ]


def test_only_the_last_parts_may_be_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(acceptance, "compiler", lambda: "/usr/bin/c++")
    parts = acceptance.parts(Project(tmp_path, small=False))
    at = [part.name for part in parts].index("captured steps") + 1
    assert sum(part.seconds for part in parts[:at]) <= acceptance.ALLOWED_SECONDS
    assert parts[-1].seconds == max(part.seconds for part in parts)


# --- What is checked


@pytest.mark.parametrize(
    ("summary", "figures"),
    [
        ("34 passed, 900 deselected in 12.34s", {"passed": 34}),
        ("1 passed in 2s", {"passed": 1}),
        ("900 deselected in 12.34s", None),
        ("0 passed, 900 deselected in 1s", None),
        ("33 passed, 1 skipped, 900 deselected in 12.34s", None),
        ("34 skipped, 900 deselected in 12.34s", None),
    ],
)
def test_the_tests_pass_only_if_some_ran_and_none_was_skipped(monkeypatch, summary, figures):
    monkeypatch.setattr(acceptance, "command", lambda *_: f"....\n{summary}\n")
    if figures:
        assert acceptance.run_tests(60) == figures
    else:
        with pytest.raises(Failed, match=summary):
            acceptance.run_tests(60)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose stages do nothing but what `project.did` says of each; its metrics are in `project.found`."""
    source, folder = tmp_path / "source", tmp_path / "copy"
    for path in (source / "metrics", source / "vae", source / "stages", folder / "data"):
        path.mkdir(parents=True)
    (source / "metrics/evaluate.json").write_text('{"test_nll": 84.9}')
    (source / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    made = Project(folder, small=False, source=source)
    made.settings = {"train": {"epochs": 3}}
    made.found, made.ran = {}, []

    def stage(name, seconds):
        made.ran.append(name)
        (folder / "data/model.safetensors").write_bytes(made.contents.pop(0) if name == "train" else b"")

    monkeypatch.setattr(made, "stage", stage)
    monkeypatch.setattr(made, "metrics", lambda stage: made.found[stage].pop(0))
    return made


def test_other_bytes_than_the_first_trainings_fail(project):
    project.contents = [b"one", b"one", b"two", b"two"]
    project.found["train"] = [{"train_elbo": -1.5}] * 4
    first, again = project.train(60), project.train(60)
    assert first["sha256"] == again["sha256"]
    assert first["train_elbo"] == -1.5
    with pytest.raises(Failed, match="other bytes than the first training"):
        project.train(60)
    assert project.train(60, compared=False, precision="tf32")["sha256"] != first["sha256"]


@pytest.mark.parametrize(("nll", "passes"), [(84.61, True), (85.19, True), (85.21, False), (84.0, False)])
def test_the_nll_must_be_near_to_the_committed_one(project, nll, passes):
    project.found["evaluate"] = [{"test_nll": nll}]
    if passes:
        assert project.judge(60, "evaluate")["committed_test_nll"] == 84.9
    else:
        with pytest.raises(Failed, match=rf"test_nll is {nll}, more than 0.3 nats from 84.9") as caught:
            project.judge(60, "evaluate")
        assert caught.value.figures["test_nll"] == nll


@pytest.mark.parametrize(("captured", "passes"), [(-130.001, True), (-130.1, False)])
def test_eager_and_captured_steps_must_agree_but_for_rounding(project, captured, passes):
    project.contents = [b"one", b"two"]
    project.found["train"] = [{"train_elbo": -130.0}, {"train_elbo": captured}]
    figures = {"train_elbo_eager": -130.0, "train_elbo_graph": captured}
    if passes:
        assert project.compare_steps(60, "graph") == figures
    else:
        with pytest.raises(Failed, match="differ by more than") as caught:
            project.compare_steps(60, "graph")
        assert caught.value.figures == figures
    assert yaml.safe_load((project.folder / "params.yaml").read_text())["train"]["step"] == "graph"


@pytest.mark.parametrize(
    ("carried", "ran"),
    [(["raw", "prepared"], ["prepare"]), (["raw"], ["prepare"]), (["prepared"], []), ([], ["download", "prepare"])],
)
def test_data_that_lie_there_are_taken_along(project, carried, ran):
    for name in carried:
        (project.source / "data" / name).mkdir(parents=True)
        (project.source / "data" / name / "file").touch()
    project.prepare(60)
    assert project.ran == ran
    assert [path.parent.name for path in project.folder.glob("data/*/file")] == carried[:1]


@pytest.mark.parametrize("ends", [True, False])
def test_what_the_benchmark_measured_is_in_the_same_file(tmp_path, monkeypatch, output, ends):
    def measure(call, seconds):
        (tmp_path / "benchmark.json").write_text('{"networks": [{"ms_per_epoch": 30.5}]}')
        return "| a table |" if ends else fail("did not end within 240 seconds", output="| half a table |")

    monkeypatch.setattr(acceptance, "command", measure)
    part = Part("benchmark", 240, lambda seconds: acceptance.run_benchmark(seconds, tmp_path))
    assert run_parts([part], ABOUT, output) == ends
    (row,) = rows(output)
    assert row["benchmark"] == {"networks": [{"ms_per_epoch": 30.5}]}
    page = output.with_suffix(".md").read_text()
    assert ("| a table |" if ends else "| half a table |") in page


# --- README's section


def results(date, gpu="a card", **benchmark):
    parts = [
        {"part": "training", "status": "passed", "wall_seconds": 12.34, "train_elbo": -86.123},
        {"part": "evaluate", "status": "failed", "wall_seconds": 5.0, "test_nll": 99.9},
        {"part": "benchmark", "status": "passed", "wall_seconds": 100.0, "benchmark": benchmark},
    ]
    return {"date": date, "machine": {"gpu": gpu}, "versions": {"torch": "9"}, "parts": parts}


def test_the_readme_says_what_the_newest_results_say():
    expected = readme.section(readme.newest(acceptance.RESULTS))
    assert expected in (ROOT / "README.md").read_text(), "run `python -m benchmarks.acceptance --readme`"


def test_the_newest_results_are_those_of_a_gpu(tmp_path):
    assert readme.newest(tmp_path) is None
    for name, date, gpu in (("a", "2030-01-31", "a card"), ("b", "2030-01-30", "older"), ("c", "2031-01-01", None)):
        (tmp_path / f"acceptance-{name}.json").write_text(json.dumps(results(date, gpu)))
    assert readme.newest(tmp_path)["machine"]["gpu"] == "a card"


def test_without_results_the_readme_says_that_no_gpu_has_run_it(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("# Title\n\n## With a GPU\n\nold\n\n### Old\n\n## Without a GPU\n\nkept\n")
    readme.write(path, None)
    text = path.read_text()
    assert "**No GPU has run this version.**" in text
    assert "old" not in text.lower().replace("folder", "")
    assert text.startswith("# Title\n\n## With a GPU\n\n")
    assert text.endswith("\n\n## Without a GPU\n\nkept\n")
    readme.write(path, None)
    assert path.read_text() == text


def test_results_are_tables_of_what_passed_and_how_fast(tmp_path):
    row = {"network": "784-400-50", "batch_size": 256, "contender": "(c)", "ms_per_epoch": 29.5}
    text = readme.section(results("2030-01-31", networks=[row]))
    for expected in ("Run on 2030-01-31 on one a card (torch 9)", "| failed |", "-86.12", "99.90", "29.5", "make gpu"):
        assert expected in text
    assert "No GPU" not in text


# --- Rehearsals


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_passes(tmp_path):
    """The stages' twin on the CPU: trained twice and once interrupted, to the same bytes, then judged."""
    call = [sys.executable, "-m", "benchmarks.acceptance", "--rehearse", "--output", str(tmp_path)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=600)
    (written,) = tmp_path.glob("*.json")
    assert done.returncode == 0, written.read_text()
    results = {row["part"]: row for row in rows(written)}
    assert [row["status"] for row in rows(written)] == ["passed"] * 8
    assert len({results[name]["sha256"] for name in ("training", "training again", "training interrupted")}) == 1
    assert "stopped by SIGTERM" in results["training interrupted"]["stopped"]
    assert results["evaluate"]["test_nll"] > 0
    steps = results["recorded steps"]
    assert steps["train_elbo_eager"] == steps["train_elbo_recorded"]


IMPORTS = """
import sys
for name in sys.argv.pop(1).split():
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(["--collect-only", "-m", "cuda", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


# What a machine with a GPU may lack; the scientific packages, pytest and hypothesis are taken to be there.
LACKING = "torchvision dvc onnx onnxruntime jupytext nbclient graphviz vl_convert ruff pyarrow"


@pytest.mark.slow
def test_the_tests_for_a_gpu_need_few_packages():
    call = [sys.executable, "-c", IMPORTS, LACKING, *acceptance.TESTS]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_captured_graphs_agree_with_eager_steps" in done.stdout
    assert "test_a_stage_writes_the_same_bytes_each_time" in done.stdout
