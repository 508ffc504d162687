"""How stages start, stop and keep out of each other's way, with real processes, signals and limits."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import stages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# A stage without a pipeline: it says that it works, and works for as long as is asked for.
STAGE = """
import sys, time
import stages
seconds, sys.argv = float(sys.argv[1]), ["stage"]
def work(settings):
    print("works", flush=True)
    time.sleep(seconds)
    print("done", flush=True)
{more}
stages.run(work)
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a params.yaml for the digits."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["download"]["dataset"], values["prepare"]["validation_size"] = "digits", 200
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


def start(folder, *arguments, **options):
    """Start Python on this project's code."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **options.pop("environment", {})},
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        text=True,
        # A shell's background job ignores SIGINT, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


def start_stage(folder, seconds, more="", **options):
    return start(folder, "-c", STAGE.format(more=more), str(seconds), **options)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Signals


def wait_for_imports(process):
    """Wait until a stage has begun to import what it needs, which takes seconds."""
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "numpy" not in maps.read_text() and "torch" not in maps.read_text():
        time.sleep(0.001)


@pytest.mark.fault
@pytest.mark.parametrize("moment", [0, 0.1, random.uniform(0.1, 1), random.uniform(1, 3)], ids="abcd")
@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, ["error: interrupted\n"]), (signal.SIGTERM, ["", "error: stopped by SIGTERM\n"])],
)
def test_a_signal_during_imports_is_one_line_at_most(project, number, said, moment):
    process = start(project, "-m", "stages.train")
    wait_for_imports(process)
    time.sleep(moment)
    process.send_signal(number)
    output, error = process.communicate(timeout=120)
    if process.returncode in (2, -number):  # it came too late, or once Python ended and had put its handlers away
        said = ["error: data/prepared/train.safetensors: not found; run `dvc repro` to create it\n"]
    assert process.returncode in (2, -number, 128 + number)
    assert output == ""
    assert error in said


@pytest.mark.fault
@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "stopped by SIGTERM")])
def test_a_signal_while_a_file_is_written_leaves_no_temporary_one(project, number, name):
    more = """
from vae.files import replacing
def work(settings):
    with replacing("data/x/file") as file:
        print("works", flush=True)
        time.sleep(60)
"""
    process = start_stage(project, 0, more)
    assert process.stdout.readline() == "works\n"
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (128 + number, f"error: {name}\n")
    assert list((project / "data/x").iterdir()) == []


# One stage at a time in a folder


def test_a_stage_waits_for_another_one_to_end(project):
    first = start_stage(project, 2)
    assert first.stdout.readline() == "works\n"
    second = start_stage(project, 0)
    assert second.stdout.readline() == "works\n"
    os.set_blocking(first.stdout.fileno(), False)
    assert first.stdout.readline() == "done\n", "the first one's work ended before the second's began"
    assert [process.communicate(timeout=120)[1] for process in (first, second)] == ["", ""]


@pytest.mark.fault
def test_a_second_stage_during_a_long_one_is_refused(project):
    with start_stage(project, 60) as first:
        assert first.stdout.readline() == "works\n"
        second = start_stage(project, 0, "stages.PATIENCE = 0.2")
        expected = f"error: {stages.LOCK}: another stage is running in this folder; wait for it or stop it\n"
        assert second.communicate(timeout=120) == ("", expected)
        assert second.returncode == 1
        first.kill()
    assert start_stage(project, 0).communicate(timeout=120) == ("works\ndone\n", "")


def test_stages_in_two_folders_do_not_wait_for_each_other(project, tmp_path):
    other = Path(shutil.copytree(project, tmp_path / "other"))
    with start_stage(project, 60) as first:
        assert first.stdout.readline() == "works\n"
        assert start_stage(other, 0).communicate(timeout=120) == ("works\ndone\n", "")
        first.kill()


@pytest.mark.fault
def test_of_three_copies_of_a_stage_at_once_each_succeeds_or_is_refused(project):
    copies = [start(project, "-m", "stages.download") for _ in range(3)]
    errors = [copy.communicate(timeout=300)[1] for copy in copies]
    refusal = f"error: {stages.LOCK}: another stage is running in this folder; wait for it or stop it\n"
    assert "" in errors
    assert set(errors) <= {"", refusal}  # on a busy machine one may have waited too long
    assert sorted(contents(project)) == ["data/.checkpoints/stage.lock", "data/raw/digits.npz", "params.yaml"]


# Orphans

PARENT = """
import os, subprocess, sys
print(os.getpid(), flush=True)
subprocess.run({command})
"""


def orphan(project, command, environment):
    """Kill the parent of a stage that works for two minutes, and return what comes of it within a minute."""
    arguments = [sys.executable, "-c", STAGE.format(more=""), "120"]
    if command == "shell":
        arguments = ["sh", "-c", '"$@"; true', "sh", *arguments]  # which keeps the shell between the two
    code = PARENT.format(command=arguments)
    parent = start(project, "-c", code, environment=environment, stderr=subprocess.STDOUT, start_new_session=True)
    number = int(parent.stdout.readline())
    assert parent.stdout.readline() == "works\n"
    os.kill(number, signal.SIGKILL)
    return parent


@pytest.mark.fault
@pytest.mark.parametrize("command", ["direct", "shell"])
def test_a_stage_ends_soon_after_the_dvc_that_started_it(project, command):
    parent = orphan(project, command, {"DVC_STAGE": "evaluate"})
    started = time.monotonic()
    output = parent.communicate(timeout=60)[0]
    assert output == "error: the DVC process that started it is gone; stopping\nerror: stopped by SIGTERM\n"
    assert time.monotonic() - started < 20  # one second, and what a busy machine needs on top
    assert start_stage(project, 0).communicate(timeout=120) == ("works\ndone\n", "")


@pytest.mark.fault
def test_a_stage_that_was_started_by_hand_outlives_its_shell(project):
    parent = orphan(project, "direct", {})
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            parent.communicate(timeout=4)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate(timeout=60)


@pytest.mark.fault
@pytest.mark.parametrize("replaced", [False, True])
def test_a_stage_ends_soon_after_its_folder(project, replaced):
    process = start_stage(project, 120)
    assert process.stdout.readline() == "works\n"
    shutil.rmtree(project)
    if replaced:
        project.mkdir()
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output) == (143, "")
    assert error == "error: the folder it works in is gone; stopping\nerror: stopped by SIGTERM\n"
    assert not project.exists() or list(project.iterdir()) == []


@pytest.mark.fault
def test_a_stage_that_does_not_respond_is_ended(project):
    more = "stages.GRACE = 0.5\nimport signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"
    process = start_stage(project, 120, more)
    assert process.stdout.readline() == "works\n"
    shutil.rmtree(project)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert error == "error: the folder it works in is gone; stopping\n"


# Limits


@pytest.mark.fault
def test_too_little_memory_is_said_as_that(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["stages/some.py"])
    for size in (10**15, 10**18 * 4):
        with pytest.raises(SystemExit) as ended:
            stages.run(lambda settings, size=size: torch.empty(size))
        assert ended.value.code == 1
        message = capsys.readouterr().err
        assert message.startswith("error: memory: ")
        assert message.endswith("; end other programs\n")
        assert message.count("\n") == 1


@pytest.mark.fault
def test_after_a_full_disk_nothing_trains_on_half_of_the_splits(project):
    for name in ("download", "prepare"):
        assert start(project, "-m", f"stages.{name}").communicate(timeout=300)[1] == ""
    assert len(list((project / "data/prepared").iterdir())) == 3
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    code = f"{limit}; sys.argv = ['stages']; runpy.run_module('stages.prepare', run_name='__main__')"
    process = start(project, "-c", code)
    assert process.communicate(timeout=300) == ("", "error: data/prepared/test.safetensors: File too large\n")
    assert process.returncode == 1
    assert not (project / "data/prepared/train.safetensors").exists()
    assert start(project, "-m", "stages.train").communicate(timeout=300) == (
        "",
        "error: data/prepared/train.safetensors: not found; run `dvc repro` to create it\n",
    )


@pytest.mark.fault
def test_a_report_is_refused_where_a_mirror_has_a_password(project):
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["download"]["mirrors"] = ["https://reader:hunter2@host/mnist/"]
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    process = start(project, "-m", "stages.report")
    output, error = process.communicate(timeout=300)
    assert (process.returncode, output) == (2, "")
    assert "MNIST_MIRROR" in error
    assert "hunter2" not in error
    assert sorted(contents(project)) == ["params.yaml"]


# Threads


# The first line of /proc/stat as it was, and what it may be a moment later.
UNCOUNTED, IDLE, SHARED = (f"cpu {user} 0 9 {idle} 9 0 0 0 0 0\n" for user, idle in ((9, 20), (9, 40), (19, 30)))


@pytest.mark.parametrize(
    ("later", "given", "spin"),
    [
        (IDLE, {}, None),
        (SHARED, {}, "1000"),
        ("", {}, "1000"),
        (UNCOUNTED, {}, "1000"),
        (SHARED, {"GOMP_SPINCOUNT": "5"}, "5"),
        (SHARED, {"OMP_WAIT_POLICY": "passive"}, None),
        (SHARED, {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, None),
    ],
)
def test_threads_that_wait_spin_briefly_on_shared_cores_unless_the_user_says_otherwise(
    project, monkeypatch, later, given, spin
):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    code = f"""
import os, sys
from pathlib import Path
stat = iter([{UNCOUNTED!r}, {later!r}])
Path.read_text = lambda path: next(stat)
sys.argv = ["-m"]
import stages
print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""
    assert start(project, "-c", code, environment=given).communicate(timeout=60) == (f"{spin} False\n", "")
