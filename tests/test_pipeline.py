"""The pipeline as a whole under DVC, on scikit-learn's digits in temporary clones."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.plot import read_results
from tests.checkouts import ROOT, call, change, contents, rewrite, stages_run
from vae.files import read_tensors
from vae.pictures import PICTURES
from vae.settings import Train, load_settings

pytestmark = pytest.mark.slow

STAGES = ["download", "prepare", "classify", "train", "evaluate", "sample", "embed", "plot", "report"]


@pytest.fixture
def drawn(finished: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the pictures that apply to the finished run."""
    monkeypatch.chdir(finished)
    results = read_results(load_settings("params.yaml"))
    return {picture.name for picture in PICTURES if picture.applies(results)}


def add(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text((folder / name).read_text() + text)


def edit_ground(folder: Path) -> None:
    for path in (folder / "stages/__init__.py", *folder.glob("vae/*.py"), *folder.glob("vae/settings/*.py")):
        path.write_text(f"{path.read_text()}# A comment.\n")
    rewrite(folder, "vae/errors.py", "exit status 2", "exit status two")
    rewrite(folder, "vae/settings/reading.py", "unknown key", "no such key")


def add_plot_setting(folder: Path) -> None:
    rewrite(folder, "vae/settings/sections.py", r'(class Plot\(Section\):\n    """.*"""\n)', r"\1\n    new: int")
    change(folder, plot={"new": 1})
    assert (
        call(folder, "python", "-c", "from vae.settings import *; print(load_settings('params.yaml').plot.new)")
        == "1\n"
    )


def edit_sources(folder: Path) -> None:
    rewrite(folder, "vae/sources/mirrors.py", "ATTEMPTS = 3", "ATTEMPTS = 4")


def add_prior(folder: Path) -> None:
    (folder / "vae/model/distributions/new.py").write_text("class NewPrior: ...\n")
    add(
        folder,
        "vae/model/distributions/priors.py",
        'from vae.model.distributions import new\n\nPRIORS["new"] = new.NewPrior\n',
    )


EDITS: dict[str, Callable[[Path], None]] = {
    "a message or a comment in the ground, a comment in `stages/__init__.py`": edit_ground,
    "`train.processes`, `images`, `checkpoint_every`, `keep_checkpoint`, `tensorboard`": lambda folder: change(
        folder,
        train={
            "processes": 2,
            "images": "streamed",
            "checkpoint_every": 1,
            "keep_checkpoint": True,
            "tensorboard": "curves",
        },
    ),
    "a new setting in the `plot` section": add_plot_setting,
    "a picture's title": lambda folder: rewrite(folder, "vae/pictures/*.py", 'title="', 'title="New: '),
    "a metric's meaning": lambda folder: rewrite(folder, "vae/evaluation/measures.py", "lower is", "less is"),
    "a comment in the training loop": lambda folder: add(folder, "vae/training/loop.py", "# A comment.\n"),
    "a new prior": add_prior,
    "a mirror, the format of a published file": edit_sources,
}
RUNS_AGAIN = dict(re.findall(r"^\| ([^|]+) \| ([a-z, ]+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))


def test_repro_makes_every_output_and_commits_only_small_files(finished: Path, drawn: set[str]) -> None:
    assert {path.stem for path in (finished / "plots/images").glob("*.png")} == drawn
    tracked = call(finished, "git", "ls-files").split()
    assert {"dvc.lock", "metrics/train.json", "metrics/evaluate.json"} <= set(tracked)
    assert not [name for name in tracked if name.startswith(("data/", "plots/"))]
    assert not list((finished / "data/.checkpoints").glob("*/")), "checkpoints of a finished run"


def test_metrics_are_finite_named_as_documented_and_disjoint(finished: Path) -> None:
    names = ("classify", "train", "evaluate", "sample")
    classify, train, evaluate, sample = (json.loads((finished / f"metrics/{name}.json").read_text()) for name in names)
    elbos = {"train_elbo", "validation_elbo"}
    assert set(train) == {*elbos, *(f"{name}_stderr" for name in elbos), "best_epoch"}
    assert {"test_elbo", "test_elbo_stderr", "test_nll", "test_nll_stderr"} <= set(evaluate)
    assert {"reconstruction_nll", "reconstruction_mse", "kl", "active_units"} <= set(evaluate)
    assert set(classify) == {"classifier_accuracy", "classifier_accuracy_stderr"}
    assert {"frechet_distance", "precision", "recall", "class_balance"} <= set(sample)
    keys = [key for metrics in (classify, train, evaluate, sample) for key in metrics]
    assert len(keys) == len(set(keys))
    values = [key for key in keys if not key.endswith("_stderr")]
    # Counts, and references.
    exact = {"best_epoch", "active_units", "frechet_distance_real", "precision_real", "recall_real"}
    assert {key for key in values if f"{key}_stderr" not in keys} == exact
    assert evaluate["test_elbo"] == pytest.approx(-evaluate["reconstruction_nll"] - evaluate["kl"], abs=2e-4)


def test_second_repro_runs_nothing(checkout: Path) -> None:
    for name in ("vae/model/.vae.py.swp", "vae/model/vae.py~", "vae/training/.DS_Store"):
        (checkout / name).touch()  # what editors and desktops leave in folders that stages depend on
    output = call(checkout, "dvc", "repro")
    assert stages_run(output) == []
    assert "up to date" in output
    assert "up to date" in call(checkout, "dvc", "status")


def test_contributing_shows_the_edits_that_are_tried_here() -> None:
    assert list(RUNS_AGAIN) == ["edit", *EDITS]


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_runs_those_stages_again_that_it_can_change(checkout: Path, edit: str) -> None:
    EDITS[edit](checkout)
    expected = [] if RUNS_AGAIN[edit] == "nothing" else RUNS_AGAIN[edit].split(", ")
    assert sorted(json.loads(call(checkout, "dvc", "status", "--json"))) == sorted(expected)


def test_a_comment_in_the_training_loop_trains_anew_and_skips_what_follows(checkout: Path) -> None:
    before = contents(checkout, "data/model.safetensors", "plots")
    EDITS["a comment in the training loop"](checkout)
    assert stages_run(call(checkout, "dvc", "repro")) == ["train"]
    assert contents(checkout, "data/model.safetensors", "plots") == before


def test_the_report_names_the_code_and_the_settings_that_trained_the_model(checkout: Path) -> None:
    metadata = read_tensors(checkout / "data/model.safetensors")[1]
    assert not Train.WITHOUT_EFFECT & metadata["train"].keys()
    # What happens to be in the folder now is another matter.
    EDITS["a new prior"](checkout)
    change(checkout, train={"learning_rate": 0.125, "keep_checkpoint": True})
    call(checkout, "python", "-m", "stages.report")
    page = (checkout / "plots/report.html").read_text()
    assert metadata["provenance"]["code"] in page
    assert metadata["provenance"]["device"] in page
    assert "0.125" not in page
    assert "keep_checkpoint" not in page


def test_plots_show_every_curve_and_picture(checkout: Path, drawn: set[str]) -> None:
    shown = json.loads(call(checkout, "dvc", "plots", "show", "--json"))
    assert "errors" not in shown
    assert {"ELBO", "Rate and distortion", "plots/embedding.csv"} <= set(shown["data"])
    call(checkout, "dvc", "plots", "show")
    page = (checkout / "dvc_plots/index.html").read_text()
    images = re.findall(r'<img[^>]* src="([^"]+)"', page)
    assert {name for name in drawn if any(image.endswith(f"_{name}.png") for image in images)} == drawn
    assert all((checkout / "dvc_plots" / image).is_file() for image in images)
    assert call(checkout, "git", "status", "--short") == ""


def test_plots_have_no_errors_without_a_validation_split(checkout: Path) -> None:
    change(checkout, prepare={"validation_size": 0})
    call(checkout, "dvc", "repro", "train")
    assert "errors" not in json.loads(call(checkout, "dvc", "plots", "show", "--json"))
    found = json.loads((checkout / "metrics/train.json").read_text())
    assert set(found) == {"train_elbo", "train_elbo_stderr", "best_epoch"}


def test_clean_clone_reproduces_the_same_bytes_and_leaves_git_clean(finished: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    call(tmp_path, "git", "clone", "--quiet", str(finished), str(clone))
    assert stages_run(call(clone, "dvc", "repro")) == STAGES
    assert call(clone, "git", "status", "--short") == ""
    outputs = ("dvc.lock", "metrics", "plots", "data/model.safetensors", "data/prepared")
    assert contents(clone, *outputs) == contents(finished, *outputs)
