"""What the README tells people to type works."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkouts import ENVIRONMENT, ROOT, call, keep_stages, stages_run
from tools.pictures import METRICS, metrics_page, with_first_metrics
from tools.record import read_record
from tools.run import names, read_experiment
from vae.errors import InputError

pytestmark = pytest.mark.slow

README, TUTORIAL = ROOT / "README.md", ROOT / "docs/tutorial.md"


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block of code in a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


COMMANDS = [
    line
    for language, block in [*blocks(README), *blocks(TUTORIAL)]
    if not language
    for line in block.splitlines()
    if re.match(r"(make|dvc|python) ", line)
]
# `verify` and `gpu` are run here, `repro` too; CI runs the others.
IN_CI, HERE = {"demo", "test"}, {"repro", "verify", "gpu"}
# These have tests of their own: what `make repro` consists of, and the README's experiment.
OF_REPRO = ["dvc repro", "python -m tools.card"]
EXPERIMENT, DIFF = "dvc exp run --set-param train.learning_rate=0.001", "dvc metrics diff"
(TABLE,) = [command for command in COMMANDS if command.startswith("dvc exp show")]
OTHERS = [command for command in COMMANDS if not command.startswith("make ")]
OTHERS = [command for command in OTHERS if command not in (*OF_REPRO, EXPERIMENT, DIFF, TABLE)]
# One experiment runs every stage; the stages after the training would do the same for these.
TRAINED = ("dvc exp run --set-param train.beta=4", "python -m tools.run iwae")


def test_make_targets_of_the_readme_exist_and_ci_runs_them() -> None:
    targets = {command.removeprefix("make ") for command in COMMANDS if command.startswith("make ")}
    assert targets == IN_CI | HERE
    known = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets | {"bench", "profile", "lint"} <= set(re.findall(r"^make ([\w-]+)", known, re.MULTILINE))
    ci = (ROOT / ".ci/run").read_text()
    assert {"make test", "make demo", "make lint"} <= set(ci.splitlines())


def test_make_repro_runs_the_pipeline_and_shows_the_metrics(checkout: Path) -> None:
    # The environment that runs this test stands in for the one that make would set up.
    output = call(checkout, "make", "repro", "--assume-old=.venv/.ready")
    assert set(OF_REPRO) <= set(output.splitlines())
    assert "up to date" in output
    assert "test_nll" in output
    assert "agrees with the record" in output
    assert "test_nll" in (checkout / "data/model-card.md").read_text()


def test_make_verify_agrees_with_a_run_that_is_the_record(checkout: Path) -> None:
    assert "agrees with the record" in call(checkout, "make", "verify", "--assume-old=.venv/.ready")


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it takes ten minutes and is not for a test")
def test_make_gpu_says_in_one_line_that_there_is_none(checkout: Path) -> None:
    done = subprocess.run(
        ["make", "--silent", "gpu", "--assume-old=.venv/.ready"],
        cwd=checkout,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if not line.startswith("make")]) == 1


def test_the_metrics_shown_are_the_committed_ones() -> None:
    record = read_record(ROOT)
    advice = "run `make pictures` and commit what it changes together with metrics/"
    assert README.read_text() == with_first_metrics(README.read_text(), record), advice
    assert (ROOT / METRICS).read_text() == metrics_page(record), advice


def test_an_experiment_is_compared_and_the_table_of_experiments_fits_a_terminal(checkout: Path) -> None:
    assert [command for command in COMMANDS if command in (EXPERIMENT, DIFF, TABLE)] == [EXPERIMENT, DIFF, TABLE]
    assert call(checkout, *shlex.split(DIFF)).strip() == ""
    keep_stages(checkout, "download", "prepare", "train", "evaluate")
    assert stages_run(call(checkout, *shlex.split(EXPERIMENT))) == ["train", "evaluate"]
    difference = json.loads(call(checkout, *shlex.split(DIFF), "--json"))
    assert difference["metrics/evaluate.json"]["test_elbo"]["diff"] < 0

    shown = call(checkout, *shlex.split(TABLE))
    assert "test_nll" in shown and "frechet_distance" in shown and "learning_rate" in shown
    assert max(map(len, shown.splitlines())) <= 120
    header, *runs = call(checkout, *shlex.split(TABLE), "--csv").splitlines()
    assert len(header.split(",")) <= 12
    assert len(runs) == 3  # the workspace, the commit and the experiment


@pytest.mark.parametrize("command", OTHERS)
def test_commands_work_in_a_finished_checkout(checkout: Path, command: str) -> None:
    if command.startswith(TRAINED):
        keep_stages(checkout, "download", "prepare", "train")
    call(checkout, *shlex.split(command))


def test_the_library_in_five_lines(checkout: Path) -> None:
    (snippet,) = [block for language, block in blocks(README) if language == "python"]
    shown = "print(tuple(decoded.shape), tuple(reconstructed.shape), tuple(drawn.shape), posterior.batch_shape)"
    output = call(checkout, sys.executable, "-c", f"{snippet}\n{shown}")
    assert output.strip() == "(16, 1, 8, 8) (16, 1, 8, 8) (16, 1, 8, 8) torch.Size([16])"


def test_the_tutorials_code_shows_a_distribution_for_each_image(checkout: Path) -> None:
    (snippet,) = [block for language, block in blocks(TUTORIAL) if language == "python"]
    assert call(checkout, sys.executable, "-c", snippet).strip() == "torch.Size([1, 4]) torch.Size([1, 4])"


@pytest.mark.parametrize("page", [README, TUTORIAL], ids=lambda page: page.name)
def test_pictures_and_pages_that_are_shown_are_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert len(links) >= 7
    assert [link for link in links if not (page.parent / link).is_file()] == []


def test_names_of_the_code_in_the_tutorial_exist() -> None:
    def defines(file: str, name: str) -> bool:
        return re.search(rf"^(class|def) {name}\b", (ROOT / file).read_text(), re.MULTILINE) is not None

    named = re.findall(r"`([A-Za-z_]\w+)` in\s`(vae/[\w/]+\.py)`", TUTORIAL.read_text())
    assert len(named) >= 5
    assert [name for name, file in named if not defines(file, name)] == []
    code = "".join(path.read_text() for path in (ROOT / "vae").rglob("*.py"))
    metrics = re.findall(r"`(test_\w+|importance_ess|active_units|prior_mmd|\w+_accuracy)`", TUTORIAL.read_text())
    assert len(metrics) >= 6
    assert [name for name in metrics if f'"{name}"' not in code] == []


@pytest.mark.parametrize("name", names())
def test_every_experiment_fits_the_settings_and_says_what_it_is(name: str) -> None:
    assert read_experiment(name)
    assert (ROOT / f"experiments/{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("name", "assignments", "message"),
    [
        ("vampprio", [], "vampprio: no such experiment, allowed: best, "),
        ("vampprior", ["train.epochs=none"], r"experiments/vampprior.yaml: train.epochs: got 'none', allowed: a whole"),
        ("vampprior", ["model.posterior=iaf"], "model.posterior: got 'iaf', allowed: diagonal_normal"),
    ],
)
def test_experiments_that_cannot_run_are_refused(name: str, assignments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_experiment(name, assignments)


def test_a_wrong_experiment_is_one_message_and_status_2() -> None:
    command = [sys.executable, "-m", "tools.run", "demo", "--set-param", "train.epochs=0"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: experiments/demo.yaml: train.epochs: got 0, allowed:")
    assert "Traceback" not in done.stderr
