"""A search's trials: begun, pruned, taken up again and summed up; with a stand-in for DVC, and once with DVC."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from tests.checkouts import ENVIRONMENT, ROOT, call
from tests.test_orphans import wait_for
from tests.tools.test_queue import left
from tools import trials
from tools.space import read_space
from tools.trials import FOLDER, Found, Search, open_study, search, summary
from vae.errors import InputError, WorkError

SPACE = {
    "settings": {"train": {"step": "eager", "checkpoint_every": 1, "batch_size": 64, "snapshot_epochs": [1]}},
    "space": {"train": {"learning_rate": [0.003, 0.002, 1e-7], "epochs": [2, 100_000]}},
    "prune": {"after_trials": 1, "after_epochs": 1},
}


class Stub:
    """Stands in for DVC: trials train in folders, and end when the test says so."""

    def __init__(self, folder):
        self.folder, self.found, self.calls = folder, {}, []

    def queue(self, name, values):
        self.calls.append(("queue", name))
        self.found[name] = Found("queued", "rev", None, {})

    def end_training(self, root):
        """Stop a trial, which DVC notices later."""
        self.calls.append(("end", root.name))
        return self.found[root.name].state == "running"

    def train(self, name, elbos):
        """Let a trial have trained for some epochs."""
        root = self.folder / name
        (root / "data/.checkpoints/run").mkdir(parents=True, exist_ok=True)
        (root / "plots").mkdir(exist_ok=True)
        rows = [f"{epoch},{elbo}" for epoch, elbo in enumerate(elbos, 1)]
        (root / "plots/history.csv").write_text("\n".join(["epoch,validation_elbo", *rows]))
        self.found[name] = Found("running", "rev", root, {})

    def end(self, name, state="success", **metrics):
        self.found[name] = Found(state, name, None, metrics)


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """The stand-in, in a folder with this project's settings and code."""
    for name in ("params.yaml", "stages", "vae"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    monkeypatch.chdir(tmp_path)
    stub = Stub(tmp_path)
    monkeypatch.setattr(trials, "queue", stub.queue)
    monkeypatch.setattr(trials, "end_training", stub.end_training)
    monkeypatch.setattr(trials, "experiments", lambda baselines: stub.found if set(filter(None, baselines)) else {})
    monkeypatch.setattr(trials, "baseline", lambda: "commit")
    monkeypatch.setattr(trials, "start", lambda shares: stub.calls.append(("start", len(shares))))
    monkeypatch.setattr(trials, "POLL", 0)
    monkeypatch.setattr(
        trials.dvc.api, "read", lambda path, repo, rev: (tmp_path / rev / "plots/history.csv").read_text()
    )
    (tmp_path / FOLDER).mkdir(parents=True)
    return stub


def begun(stub, jobs=1):
    found = Search(open_study("s", read_space("space.yaml")), read_space("space.yaml"), jobs)
    for _ in range(jobs):
        found._begin()
    return found


def test_a_trial_that_falls_behind_is_stopped_and_one_that_does_not_ends_with_its_elbo(stub):
    found = begun(stub, jobs=3)
    found._look()
    assert ("start", 3) in stub.calls
    stub.train("s-0", [-30, -20, -10])
    stub.train("s-1", [-40, -10])
    stub.train("s-2", [-20, -30])
    found._look()
    assert [run.root is None for run in found.runs] == [False] * 3
    found._look()
    assert len(found.runs) == 3, "as no trial has ended whose epochs could be the measure"
    stub.end("s-0", validation_elbo=-10.0)
    found.runs[0].root = None
    found._look()
    # Epoch by epoch: trial 1 is behind in its first, but was seen then; epoch 3 is worse than -10.
    stub.train("s-1", [-40, -10, -9.5])
    stub.train("s-2", [-20, -30, -29])
    found._look()
    assert [run.name for run in found.runs] == ["s-1", "s-2"], "as DVC has yet to clean up after trial 2"
    stub.end("s-2", "failed")
    found._look()
    assert [run.name for run in found.runs] == ["s-1"]
    assert [call for call in stub.calls if call[0] == "end"] == [("end", "s-2")]
    states = {trial.user_attrs["experiment"]: trial.state for trial in found.study.trials}
    assert states == {"s-0": TrialState.COMPLETE, "s-1": TrialState.RUNNING, "s-2": TrialState.PRUNED}
    assert found.study.best_trial.intermediate_values == {1: -30, 2: -20, 3: -10}
    table = summary(found.study)
    assert re.findall(r"^\| s-(\d) +\| (\w+)", table, re.MULTILINE) == [("0", "complete"), ("2", "pruned")]
    assert "`dvc exp apply s-0`" in table


def test_the_history_of_the_commit_that_a_trial_starts_from_is_not_its_own(stub):
    found = begun(stub)
    stub.train("s-0", [-1])
    (stub.folder / "s-0/data/.checkpoints/run").rmdir()
    found._look()
    found._look()
    assert found.runs[0].epochs == set()


def test_trials_that_fail_or_vanish_do_not_count_and_a_search_without_a_result_gives_up(stub):
    found = begun(stub, jobs=3)
    stub.end("s-0", "failed")
    del stub.found["s-1"]
    found._look()
    found._look()
    assert [run.name for run in found.runs] == ["s-1", "s-2"]
    stub.end("s-2", train_elbo=-3.0)
    with pytest.raises(WorkError, match=r"all of the first 3 trials failed"):
        found._look()
    reasons = [trial.user_attrs["failed"] for trial in found.study.trials]
    assert reasons == ["failed; `dvc queue logs s-0` shows why", "no longer known to DVC", "no validation_elbo"]


def test_trials_that_were_left_are_taken_up_and_those_that_were_killed_begin_again(stub):
    before = begun(stub, jobs=2)
    drawn = [run.trial.params for run in before.runs]
    stub.end("s-1", "failed")
    after = Search(open_study("s", read_space("space.yaml")), read_space("space.yaml"), 2)
    after._resume()
    after._begin()
    after._begin()
    assert [run.name for run in after.runs] == ["s-0", "s-3"]
    assert [run.trial.params for run in after.runs] == drawn
    assert [call for call in stub.calls if call[0] == "queue"] == [("queue", "s-0"), ("queue", "s-1"), ("queue", "s-3")]
    assert trials.ended(after.study) == [], "the two whose places were taken do not count"


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (
            "space",
            lambda: Path("space.yaml").write_text(yaml.safe_dump(SPACE | {"space": {"train": {"seed": [0, 1]}}})),
        ),
        (
            "settings",
            lambda: Path("space.yaml").write_text(yaml.safe_dump(SPACE | {"settings": {"train": {"beta": 2}}})),
        ),
        ("code", lambda: None),
    ],
)
def test_a_search_with_other_trials_than_before_is_refused(stub, monkeypatch, part, change):
    begun(stub)
    change()
    if part == "code":
        monkeypatch.setattr(trials, "code_identity", lambda path: "other")
    with pytest.raises(InputError, match=rf"s\.log: made with other {part}, so its"):
        open_study("s", read_space("space.yaml"))


def test_names_that_experiments_have_already_are_refused(stub):
    stub.end("s-5")
    with pytest.raises(InputError, match=r"have this one's names \(s-5\)"):
        open_study("s", read_space("space.yaml"))


def test_a_damaged_study_is_one_message(stub):
    (FOLDER / "s.log").write_text("{nonsense\n{\n")
    with pytest.raises(InputError, match=r"s\.log: damaged .*; delete it to start over"):
        open_study("s", read_space("space.yaml"))


def test_a_search_that_runs_already_is_refused(stub):
    from filelock import FileLock

    with FileLock(FOLDER / "s.lock"), pytest.raises(InputError, match="s: another process runs this search"):
        search("s", read_space("space.yaml"), 1, 1)


@pytest.fixture
def searching(checkout: Path, monkeypatch):
    """The finished checkout as the working folder; at the end no process is left in it."""
    monkeypatch.chdir(checkout)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    yield checkout
    subprocess.run(("dvc", "queue", "stop", "--kill"), cwd=checkout, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    wait_for(lambda: not left(checkout), 60)


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_and_prunes_a_training_without_end(searching: Path) -> None:
    (searching / "digits.yaml").write_text(yaml.safe_dump(SPACE))
    FOLDER.mkdir(parents=True)
    study = open_study("digits", read_space("digits.yaml"))
    study.enqueue_trial({"train.learning_rate": "0.003", "train.epochs": "2"})
    command = [sys.executable, "-m", "tools.search", "digits.yaml", "--trials"]
    killed = subprocess.Popen([*command, "1"], stdout=subprocess.PIPE, text=True)
    begun = killed.stdout.readline().split()
    assert (begun[0], sorted(begun[1:])) == ("digits-0:", ["train.epochs=2", "train.learning_rate=0.003"])
    wait_for(lambda: "digits-0" in call(searching, "dvc", "queue", "status"), 120)
    killed.kill()
    killed.communicate()

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    resumed = subprocess.Popen([*command, "2"], **streams)
    assert resumed.stdout.readline() == "digits-0: picked up again\n"
    study.enqueue_trial({"train.learning_rate": "1e-07", "train.epochs": "100000"})
    output, messages = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, messages
    assert output.startswith("digits-0: validation ELBO -")
    rows = re.findall(r"^\| (digits-\d) +\| (\w+) +\| +(\d+) \| +(-[\d.]+) \|", output, re.MULTILINE)
    (best, *complete, elbo), (pruned, *ended_early, _) = rows
    assert (best, *complete) == ("digits-0", "complete", "2")
    assert ended_early in (["pruned", "1"], ["pruned", "2"])

    shown = json.loads(call(searching, "dvc", "exp", "show", "--json"))
    found = {item["name"]: item for base in shown for item in base["experiments"] or []}
    assert found.keys() == {best, pruned}
    (revision,) = found[best]["revs"]
    assert f"{revision['data']['metrics']['metrics/train.json']['data']['validation_elbo']:.2f}" == elbo
    assert found[pruned]["executor"]["state"] == "failed"
    wait_for(lambda: not any("stages." in command for command in left(searching)), 20)
    wait_for(lambda: not list(searching.glob(".dvc/tmp/exps/tmp*")), 20)
