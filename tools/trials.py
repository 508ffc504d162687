"""Trials of a search as experiments in DVC's queue, judged by the validation ELBO and pruned while they train."""

import csv
import json
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import dvc.api
import optuna
import psutil
import tenacity
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from stages.train import CODE, SCRATCH
from tools.queue import call_dvc, shares, start
from tools.run import changed
from tools.space import Space, assignments
from tools.tables import table
from vae.errors import InputError, WorkError
from vae.identity import code_identity
from vae.settings import read_yaml

FOLDER = Path(".runs/searches")
HISTORY, METRICS = "plots/history.csv", "metrics/train.json"
POLL = 2  # seconds between looks at what the running trials have written
STARTING = 20  # seconds that workers are given to start
MOST_FAILURES = 3  # after which a search without a single result gives up
MOST_MISSES = 3  # looks in a row in which DVC may not know a trial, as when it is just taken from the queue

COLUMNS = {
    "trial": "{name}",
    "state": "{state}",
    "epochs": "{epochs:d}",
    "validation ELBO": "{elbo:.2f}",
    "drawn": "{drawn}",
}

# Two processes of DVC that want the same lock.
_again = tenacity.retry(
    retry=tenacity.retry_if_exception_type(WorkError),
    stop=tenacity.stop_after_attempt(3),
    wait=tenacity.wait_fixed(2),
    reraise=True,
)


class Found(NamedTuple):
    """What DVC knows of an experiment; its state is queued, running, success or failed."""

    state: str
    rev: str
    root: Path | None
    metrics: Mapping[str, float]


@dataclass
class Run:
    """A trial whose experiment waits or trains."""

    trial: optuna.Trial
    root: Path | None = None  # where it trains
    pruned: bool = False  # its training was told to stop, which DVC has yet to notice
    misses: int = 0
    epochs: set[int] = field(default_factory=set)  # that the pruner knows

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return self.trial.user_attrs["experiment"]

    def trains(self) -> bool:
        """Whether there is a folder in which it trains."""
        return self.root is not None and self.root.exists()

    def falls_behind(self, history: str) -> bool:
        """Hand those epochs of a training's history that are new to the pruner, until it wants the trial to end."""
        for row in csv.DictReader(history.splitlines()):
            epoch = int(row["epoch"])
            if epoch not in self.epochs and row["validation_elbo"]:
                self.epochs.add(epoch)
                self.trial.report(float(row["validation_elbo"]), epoch)
                if self.trial.should_prune():
                    return True
        return False

    def written(self) -> str:
        """The history that its training has written up to now."""
        assert self.root is not None
        # Before its training begins, the file is the one of the commit that the experiment starts from.
        if any(path.is_dir() for path in (self.root / SCRATCH).glob("*")) and (self.root / HISTORY).exists():
            return (self.root / HISTORY).read_text()
        return ""


class Search:
    """A study whose trials go through DVC's queue, `jobs` at a time."""

    def __init__(self, study: optuna.Study, space: Space, jobs: int) -> None:
        self.study, self.space, self.jobs = study, space, jobs
        self.runs: list[Run] = []
        self.started = -float(STARTING)

    def run(self, trials: int) -> None:
        """Run trials until as many have ended.

        Raises:
            WorkError: DVC fails, or all of the first trials do.
        """
        self._resume()
        while True:
            while len(self.runs) < self.jobs and len(ended(self.study)) + len(self.runs) < trials:
                self._begin()
            if not self.runs:
                return
            time.sleep(POLL)
            self._look()

    def _resume(self) -> None:
        """Have the trials that an interrupted search left begin again, with their experiments if DVC has them."""
        left = self.study.get_trials(states=(TrialState.RUNNING,))
        found = experiments(trial.user_attrs.get("baseline") for trial in left)
        for trial in left:
            name = trial.user_attrs.get("experiment")
            known = name in found and found[name].state != "failed"
            # Optuna hands out a trial once; one that was left ends here, and another takes its place.
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs if known else None)

    def _begin(self) -> None:
        trial = self.study.ask(self.space.distributions)
        self.runs.append(Run(trial))
        if "experiment" in trial.user_attrs:
            print(f"{trial.user_attrs['experiment']}: picked up again", flush=True)
            return
        name = f"{self.study.study_name}-{trial.number}"
        trial.set_user_attr("baseline", baseline())
        trial.set_user_attr("experiment", name)
        print(f"{name}: {' '.join(assignments({}, trial.params))}", flush=True)
        queue(name, assignments(self.space.settings, trial.params))

    def _look(self) -> None:
        """Prune what trains, and find out what became of the other trials."""
        for run in self.runs:
            if run.trains() and not run.pruned and run.falls_behind(run.written()):
                assert run.root is not None
                run.pruned = end_training(run.root)  # if not, it has just ended
        unknown = [run for run in self.runs if run.pruned or not run.trains()]
        if not unknown:
            return
        found = experiments(run.trial.user_attrs["baseline"] for run in unknown)
        for run in unknown:
            self._settle(run, found.get(run.name))
        # A worker ends when it has nothing to do for ten seconds, which may be just before a trial is queued.
        waits = any(run.name in found and found[run.name].state == "queued" for run in unknown)
        if waits and time.monotonic() - self.started > STARTING:
            self.started = time.monotonic()
            start(shares(self.jobs))

    def _settle(self, run: Run, found: Found | None) -> None:
        run.misses = run.misses + 1 if found is None else 0
        if run.misses >= MOST_MISSES:
            self._fail(run, "no longer known to DVC")
        elif found is None or found.state == "queued":
            return
        elif found.state == "running":
            run.root = found.root
        elif found.state == "failed" and run.pruned:
            self._end(run, TrialState.PRUNED, f"pruned after epoch {max(run.epochs)}")
        elif found.state == "failed":
            self._fail(run, f"failed; `dvc queue logs {run.name}` shows why")
        elif "validation_elbo" not in found.metrics:
            self._fail(run, "no validation_elbo")
        else:
            while run.falls_behind(dvc.api.read(HISTORY, repo=".", rev=found.rev)):
                pass  # too late; but other trials are held against all of its epochs
            value = found.metrics["validation_elbo"]
            self._end(run, TrialState.COMPLETE, f"validation ELBO {value:.2f}", value)

    def _fail(self, run: Run, reason: str) -> None:
        run.trial.set_user_attr("failed", reason)
        self._end(run, TrialState.FAIL, reason)
        all_ended = ended(self.study)
        if len(all_ended) >= MOST_FAILURES and all("failed" in trial.user_attrs for trial in all_ended):
            raise WorkError(f"all of the first {len(all_ended)} trials failed; `dvc queue logs {run.name}` shows why")

    def _end(self, run: Run, state: TrialState, message: str, value: float | None = None) -> None:
        self.study.tell(run.trial, value, state)
        self.runs.remove(run)
        print(f"{run.name}: {message}", flush=True)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are over, without those that others have taken the place of."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in finished if trial.state != TrialState.FAIL or "failed" in trial.user_attrs]


def baseline() -> str:
    """The commit that new experiments start from."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@_again
def queue(name: str, values: Iterable[str]) -> None:
    """Put a training with these settings into the queue."""
    options = [option for value in values for option in ("--set-param", value)]
    call_dvc("exp", "run", "--queue", "--name", name, *options, "train")


@_again
def experiments(baselines: Iterable[str | None]) -> dict[str, Found]:
    """The experiments that started from these commits, by name."""
    options = [option for rev in sorted(set(filter(None, baselines))) for option in ("--rev", rev)]
    if not options:
        return {}
    shown = json.loads(call_dvc("exp", "show", "--json", *options))
    return {item["name"]: _found(item) for rev in shown for item in rev["experiments"] or []}


def _found(item: Mapping[str, Any]) -> Found:
    executor, revision = item["executor"] or {"state": "success"}, item["revs"][0]
    state = "failed" if revision["error"] else executor["state"]
    root = (executor.get("local") or {}).get("root")
    metrics = ((revision["data"] or {}).get("metrics") or {}).get(METRICS, {}).get("data") or {}
    return Found(state, revision["rev"], Path(root) if root else None, metrics)


def end_training(root: Path) -> bool:
    """Stop the training in an experiment's folder as a user would, and return whether there was one.

    `dvc queue kill` ends DVC instead, and what the training writes until it notices can keep its folder from removal.
    """
    trainings = {}
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command, folder = process.info["cmdline"] or [], process.info["cwd"]
        if command[-2:] == ["-m", "stages.train"] and folder and Path(folder).resolve() == root.resolve():
            trainings[process.pid] = process
    for process in trainings.values():
        with suppress(psutil.NoSuchProcess):
            if process.ppid() not in trainings:  # the first of several processes stops the others
                process.terminate()
    return bool(trainings)


def open_study(name: str, space: Space) -> optuna.Study:
    """The study of a name, new or as an interrupted search left it.

    Raises:
        InputError: it was made with another space, other settings or other code, or its file is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = FOLDER / f"{name}.log"
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", pruner=space.pruner, load_if_exists=True
        )
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it to start over") from error
    # A sampler of the same seed would begin with the draws that have been tried.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    now, then = identity(space), study.user_attrs
    if not study.trials:
        if clash := sorted(found for found in experiments([baseline()]) if found.rpartition("-")[0] == name):
            raise InputError(
                f"experiments of another search have this one's names ({clash[0]}); give the space's file another "
                "name, or remove them with `dvc exp remove`"
            )
        for part, value in now.items():
            study.set_user_attr(part, value)
    elif other := [part for part, value in now.items() if then.get(part) != value]:
        raise InputError(
            f"{path}: made with other {' and '.join(other)}, so its trials are not comparable; give the space's file "
            "another name, or delete this one to start over"
        )
    return study


def identity(space: Space) -> dict[str, Any]:
    """What must stay the same within a search."""
    drawn = {key: optuna.distributions.distribution_to_json(kind) for key, kind in space.distributions.items()}
    settings = changed(read_yaml("params.yaml"), space.settings)
    settings = {section: settings[section] for section in ("download", "prepare", "model", "train")}
    return {"space": drawn, "settings": settings, "code": {path: code_identity(Path(path)) for path in CODE}}


def search(name: str, space: Space, trials: int, jobs: int) -> None:
    """Run or continue the search of a name until `trials` have ended, and print them, the best first.

    Raises:
        InputError: it cannot be continued, or another process runs it.
        WorkError: DVC fails, or all of the first trials do.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(FOLDER / f"{name}.lock", timeout=0):
            study = open_study(name, space)
            Search(study, space, jobs).run(trials)
    except Timeout as error:
        raise InputError(f"{name}: another process runs this search") from error
    print(f"\n{summary(study)}")


def summary(study: optuna.Study) -> str:
    """A table of the trials that are over, the best first, and how to continue with that one."""
    # A pruned trial's value is that of its last epoch.
    order = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    trials = sorted(ended(study), key=lambda trial: (order.index(trial.state), -(trial.value or 0)))
    rows = [
        {
            "name": trial.user_attrs["experiment"],
            "state": trial.state.name.lower(),
            "epochs": len(trial.intermediate_values),
            "elbo": trial.value,
            "drawn": " ".join(assignments({}, trial.params)),
        }
        for trial in trials
    ]
    return f"{table(COLUMNS, rows)}\n\n`dvc exp apply {rows[0]['name']}` and `dvc repro` evaluate the first one."
