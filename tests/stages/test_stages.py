import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import stages
from stages.train import FINISH
from vae.errors import DamagedFile, InputError, Interrupted, MissingFile, SettingError, WorkError
from vae.files import read_arrays, read_tensors, write_arrays, write_tensors
from vae.settings import load_settings
from vae.training import loop

ROOT = Path(__file__).resolve().parents[2]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
SMALL = {
    "download": {"dataset": "digits"},
    "prepare": {"validation_size": 200},
    "model": {"latent_dim": 2, "encoder_widths": [4], "decoder_widths": [4]},
    "train": {"device": "cpu", "epochs": 1, "snapshot_epochs": [1]},
    "classify": {"epochs": 1},
    "evaluate": {"importance_samples": 1, "training_images": 100},
    "sample": {"images": 50},
    "embed": {"method": "pca", "images": 10},
    "plot": {"dpi": 50},
}


def change(**sections):
    values = yaml.safe_load(Path("params.yaml").read_text())
    for section, keys in sections.items():
        values[section] |= keys
    Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def execute(patch, name, *arguments):
    """Do in this process what `python -m stages.NAME` does, and return the exit status.

    An exception, which `python -m` would show as a traceback, ends the test.
    """
    patch.setattr(sys, "argv", [f"stages/{name}.py", *arguments])
    patch.delitem(sys.modules, f"stages.{name}", raising=False)
    try:
        runpy.run_module(f"stages.{name}", run_name="__main__")
    except SystemExit as ended:
        return ended.code
    return 0


def contents():
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "stage.lock"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a copy of params.yaml and nothing else, as the working folder."""
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Give a function: run a stage that must fail, and return its exit status and its one message."""

    def run_stage(name, *arguments):
        before = contents()
        status = execute(monkeypatch, name, *arguments)
        assert contents() == before
        output, message = capsys.readouterr()
        assert not output
        assert message.startswith("error: ")
        assert message.count("\n") == 1, "one message"
        return status, message.removeprefix("error: ").rstrip()

    return run_stage


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which every stage but the last ran on the digits."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.chdir(folder)
        # What `set_up` sets outlives the test; here it is the results' form that matters, not their bytes.
        patch.setattr("vae.device.set_up", torch.device)
        change(**SMALL)
        for name in ("download", "prepare", "classify", "train", "evaluate", "sample", "embed", "plot"):
            assert execute(patch, name) == 0, name
    return folder


@pytest.fixture
def copied(ran, project):
    """The working folder, with its own copy of what those stages left."""
    for path in ran.rglob("*"):
        if path.is_file():
            target = project / path.relative_to(ran)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return project


# Wrong settings

MISTAKES = {
    "unknown key": ("train:\n", "train:\n  epoch: 3\n", "train.epoch: unknown key, got 3; did you mean epochs? "),
    "wrong type": ("  dpi: ", "  dpi: high #", "plot.dpi: got 'high', allowed: a whole number at least 50 and at most"),
    "out of range": ("  particles: ", "  particles: 0 #", "train.particles: got 0, allowed: a whole number at least 1"),
    "repeated key": ("train:\n", "train:\n  epochs: 3\n", "train.epochs: repeated on lines "),
    "no YAML": ("train:", "train: [", "not valid YAML: "),
    "another document": ("download:", "--- 3\n---\ndownload:", "not valid YAML: expected a single document"),
}


@pytest.mark.fault
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_refuses_wrong_settings_with_one_message_and_status_2(project, refusal, name, mistake):
    found, replacement, expected = MISTAKES[mistake]
    text = Path("params.yaml").read_text()
    assert text.count(found) == 1
    Path("params.yaml").write_text(text.replace(found, replacement))
    status, message = refusal(name)
    assert status == 2
    assert message.startswith(f"params.yaml: {expected}")


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_says_that_params_yaml_is_missing(project, refusal, name):
    Path("params.yaml").unlink()
    expected = "params.yaml: not found; run from the project's root"
    assert refusal(name) == (2, expected)


@pytest.mark.parametrize("argument", ["--epochs=3", "--help", "params.yaml"])
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_refuses_arguments(project, refusal, name, argument):
    assert refusal(name, argument) == (2, f"{argument}: a stage takes no arguments; its settings are in params.yaml")


@pytest.mark.slow
def test_a_refusal_reaches_the_shell(project):
    change(train={"epochs": 0})
    finished = subprocess.run(
        [sys.executable, "-m", "stages.train"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = "error: params.yaml: train.epochs: got 0, allowed: a whole number at least 1 and at most 100000\n"
    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", expected)


# Missing and damaged inputs

FIRST_INPUTS = {
    "prepare": "data/raw/train-images-idx3-ubyte.gz",
    "classify": "data/prepared/train.safetensors",
    "train": "data/prepared/train.safetensors",
    "evaluate": "data/prepared/train.safetensors",
    "sample": "data/prepared/train.safetensors",
    "embed": "data/prepared/test.safetensors",
    "plot": "data/prepared/test.safetensors",
    "report": "data/prepared/train.safetensors",
}
INPUTS = [
    ("prepare", "data/raw/digits.npz"),
    ("classify", "data/prepared/train.safetensors"),
    ("classify", "data/prepared/test.safetensors"),
    ("train", "data/prepared/train.safetensors"),
    ("train", "data/prepared/test.safetensors"),
    ("evaluate", "data/prepared/train.safetensors"),
    ("evaluate", "data/prepared/test.safetensors"),
    ("evaluate", "data/model.safetensors"),
    ("sample", "data/prepared/train.safetensors"),
    ("sample", "data/prepared/test.safetensors"),
    ("sample", "data/model.safetensors"),
    ("sample", "data/classifier.safetensors"),
    ("embed", "data/prepared/test.safetensors"),
    ("embed", "data/latents.npz"),
    ("plot", "data/prepared/test.safetensors"),
    ("plot", "data/model.safetensors"),
    ("plot", "data/latents.npz"),
    ("plot", "data/samples.npz"),
    ("plot", "data/snapshots.npz"),
    ("plot", "plots/history.csv"),
    ("plot", "plots/embedding.csv"),
    ("report", "data/prepared/test.safetensors"),
    ("report", "data/model.safetensors"),
    ("report", "plots/error_by_class.csv"),
]


def test_the_inputs_that_are_taken_away_below_are_all_inputs():
    def is_data(path):
        return path.startswith(("data/", "plots/")) and path != "plots/images"  # none of them in particular

    declared = {(name, path) for name, stage in PIPELINE.items() for path in stage["deps"] if is_data(path)}
    known = {(name, dep) for name, path in INPUTS for dep in PIPELINE[name]["deps"] if Path(path).is_relative_to(dep)}
    assert known == declared


@pytest.mark.parametrize("name", FIRST_INPUTS)
def test_a_stage_in_an_empty_folder_says_what_is_missing(project, refusal, name):
    change(train={"device": "cpu"})
    assert refusal(name) == (2, f"{FIRST_INPUTS[name]}: not found; run `dvc repro` to create it")


@pytest.mark.fault
@pytest.mark.parametrize(("name", "path"), INPUTS)
def test_a_missing_input_is_reported_by_name(copied, refusal, name, path):
    Path(path).unlink()
    assert refusal(name) == (2, f"{path}: not found; run `dvc repro` to create it")


@pytest.mark.fault
@pytest.mark.parametrize("damage", [b"", b"\xff\0\xfe" * 100])
@pytest.mark.parametrize(("name", "path"), [*INPUTS, ("train", "data/prepared/validation.safetensors")])
def test_a_damaged_input_is_reported_by_name(copied, refusal, name, path, damage):
    Path(path).write_bytes(damage)
    status, message = refusal(name)
    assert status == 2
    assert message.startswith(f"{path}: damaged (")
    assert message.endswith("); delete it and run `dvc repro`")


def test_a_page_without_pictures_is_refused(copied, refusal):
    for path in Path("plots/images").glob("*.png"):
        path.unlink()
    command = "dvc repro --force --single-item plot"
    assert refusal("report") == (2, f"plots/images: no pictures; run `{command}` to recreate it")


def test_the_last_stage_runs_on_what_the_others_left(copied, monkeypatch):
    assert execute(monkeypatch, "report") == 0
    assert Path("plots/report.html").stat().st_size > 100_000


# Training that is watched, and finished early

OUTPUTS = [Path(path) for path in ("data/model.safetensors", "data/snapshots.npz", "plots/history.csv")]
METRICS = Path("metrics/train.json")


@pytest.fixture
def watched(copied, monkeypatch):
    """Give a function: train for four epochs, looking at the folder after each of them; return what was seen."""
    change(train={"epochs": 4, "keep_checkpoint": False})

    def train(look):
        report, seen = loop.report, []

        def look_on(bar, progress, epochs):
            report(bar, progress, epochs)
            seen.append(look(progress.epoch))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "report", look_on)
            assert execute(patch, "train") == 0
        return seen

    return train


def results():
    return [path.read_bytes() for path in [*OUTPUTS, METRICS]]


def test_history_and_metrics_follow_the_training(watched):
    for path in (OUTPUTS[-1], METRICS):
        path.unlink()  # as DVC does before a stage
    seen = watched(lambda epoch: epoch > 1 and (OUTPUTS[-1].read_text().splitlines(), json.loads(METRICS.read_text())))
    history = OUTPUTS[-1].read_text().splitlines()
    assert len(history) == 5
    for epochs, (lines, metrics) in enumerate(seen[1:], start=1):  # each look comes before its own epoch is written
        assert lines == history[: epochs + 1]
        best = dict(zip(lines[0].split(","), lines[metrics["best_epoch"]].split(","), strict=True))
        assert metrics["validation_elbo"] == float(best["validation_elbo"])
        assert metrics["validation_elbo"] == max(float(line.split(",")[4]) for line in lines[1:])


def test_what_later_stages_measured_of_another_model_is_withdrawn_once_the_inputs_are_checked(watched, refusal):
    of_the_model = {name for name, stage in PIPELINE.items() if "data/model.safetensors" in stage["deps"]}
    withdrawn = {Path(f"metrics/{name}.json") for name in of_the_model} & set(Path("metrics").iterdir())
    assert {path.name for path in withdrawn} == {"evaluate.json", "sample.json"}
    split = Path("data/prepared/test.safetensors")
    kept = split.read_bytes()
    split.unlink()
    assert refusal("train")[0] == 2  # and nothing is written or removed
    split.write_bytes(kept)
    assert not any(any(path.exists() for path in withdrawn) for _ in watched(lambda epoch: None))
    assert Path("metrics/classify.json").exists()


def test_a_training_that_is_asked_to_finish_says_so_and_continues_later_to_the_same_bytes(watched, capsys):
    watched(lambda epoch: None)
    whole = results()
    FINISH.touch()  # left from before: it is not for this run
    watched(lambda epoch: epoch == 2 and FINISH.touch())
    assert not FINISH.exists()
    assert len(OUTPUTS[-1].read_text().splitlines()) == 3
    assert json.loads(METRICS.read_text())["epochs"] == 2
    assert "after epoch 2 of 4" in capsys.readouterr().out
    assert read_tensors(OUTPUTS[0])[1]["epochs"] == 2
    watched(lambda epoch: None)
    assert "resuming from checkpoint: after epoch 2" in capsys.readouterr().out
    assert results() == whole
    assert not list(Path("data/.checkpoints").glob("*/"))


def test_tensorboard_shows_the_history_in_a_folder_of_the_run_and_changes_no_result(watched):
    watched(lambda epoch: None)
    whole = results()
    change(train={"tensorboard": "curves"})
    watched(lambda epoch: None)
    assert results() == whole
    (run,) = Path("curves").iterdir()
    assert len(list(run.glob("events.out.tfevents.*"))) == 1


def test_streamed_images_change_no_result(watched):
    watched(lambda epoch: None)
    whole = results()
    change(train={"images": "streamed"})
    watched(lambda epoch: None)
    assert results() == whole


def test_a_wish_that_comes_in_the_last_epoch_changes_nothing(watched):
    watched(lambda epoch: None)
    whole = results()
    watched(lambda epoch: epoch == 4 and FINISH.touch())
    assert results() == whole
    assert not FINISH.exists()


# Inputs that are intact but do not fit


def arrays(change):
    def mutate(path):
        values = read_arrays(path)
        change(values)
        write_arrays(path, values)

    return mutate


def tensors(change):
    def mutate(path):
        values, metadata = read_tensors(path)
        change(values, metadata)
        write_tensors(path, values, metadata)

    return mutate


def lines(change):
    """Change the lines of a text file."""
    return lambda path: Path(path).write_text("\n".join(change(Path(path).read_text().splitlines())) + "\n")


def values(**changed):
    """Change values of a JSON file, to which NaN may belong."""
    return lambda path: Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | changed))


def cell(column, text):
    """Replace a cell in the first row of a table."""

    def change(rows):
        row = rows[1].split(",")
        row[rows[0].split(",").index(column)] = text
        return [rows[0], ",".join(row), *rows[2:]]

    return lines(change)


def halve(rows):
    return rows[: len(rows) // 2]


def half_of_the_pictures_bytes(path):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))


TRAIN, TEST = "data/prepared/train.safetensors", "data/prepared/test.safetensors"
MODEL, CLASSIFIER = "data/model.safetensors", "data/classifier.safetensors"
LATENTS, SAMPLES, SNAPSHOTS = "data/latents.npz", "data/samples.npz", "data/snapshots.npz"
POINTS, HISTORY, BY_CLASS = "plots/embedding.csv", "plots/history.csv", "plots/error_by_class.csv"
EVALUATE, PICTURE = "metrics/evaluate.json", "plots/images/elbo.png"
GRAY = tensors(lambda t, m: t.update(images=torch.full_like(t["images"], 100)))
OTHER_PIXELS = tensors(lambda t, m: (m.update(binarization="none"), m["model"].update(likelihood="relaxed_bernoulli")))
FEW = tensors(lambda t, m: t.update({name: x[:9] for name, x in t.items()}))
NARROW = tensors(lambda t, m: t.update({name: t[name][:, :, 1:].clone() for name in ("images", "originals")}))
NAN = tensors(lambda t, m: t.update({name: x * torch.nan for name, x in t.items()}))
DOUBLE = tensors(lambda t, m: t.update({name: x.double() for name, x in t.items()}))
USERS = ("evaluate", "sample", "plot", "report")  # of the model
OTHER_CLASSES = tensors(lambda t, m: m.update(classes=list("abcdefghij")))
OTHER_DATASET = tensors(lambda t, m: m.update(dataset="mnist"))
UNFIT = [
    *((stage, path, OTHER_CLASSES, "its classes is") for stage in ("classify", "train") for path in [TEST]),
    *((stage, TEST, OTHER_DATASET, "its dataset is mnist") for stage in ("classify", "train", "evaluate", "sample")),
    *((stage, TEST, GRAY, "gray pixels") for stage in ("classify", "train", "evaluate", "sample", "embed", "plot")),
    *((stage, MODEL, OTHER_PIXELS, "its binarization is none") for stage in USERS),
    *((stage, MODEL, OTHER_CLASSES, "its classes is") for stage in USERS),
    *((stage, MODEL, OTHER_DATASET, "its dataset is") for stage in USERS),
    *(
        (stage, MODEL, tensors(lambda t, m: m.update(binarization="none")), "model.likelihood: got 'bernoulli'")
        for stage in ("evaluate", "sample")
    ),
    ("train", TRAIN, tensors(lambda t, m: m.update(binarization="unheard of")), "a binarization that are known here"),
    ("train", TRAIN, tensors(lambda t, m: m.update(dataset="unheard of")), "not name a data set"),
    ("train", TRAIN, tensors(lambda t, m: m.update(classes=list(range(10)))), "not name the classes"),
    (
        "train",
        TRAIN,
        FEW,
        "9 images, expected at least 10",
    ),
    ("evaluate", TEST, FEW, "9 images, expected at least"),
    (
        "evaluate",
        TEST,
        NARROW,
        "its image_shape is [1, 7, 8], that of the prepared images [1, 8, 8]",
    ),
    ("plot", TEST, tensors(lambda t, m: t.pop("originals")), "no originals"),
    ("evaluate", MODEL, tensors(lambda t, m: m.pop("provenance")), "its metadata does not hold provenance"),
    ("plot", MODEL, tensors(lambda t, m: m.pop("epochs")), "its metadata does not hold epochs"),
    ("evaluate", MODEL, NAN, "not finite"),
    (
        "evaluate",
        MODEL,
        DOUBLE,
        "torch.float64 of shape",
    ),
    ("sample", CLASSIFIER, OTHER_CLASSES, "its classes is"),
    ("sample", CLASSIFIER, OTHER_DATASET, "its dataset is"),
    ("sample", CLASSIFIER, tensors(lambda t, m: m.update(binarization="none")), "its binarization is"),
    ("embed", LATENTS, arrays(lambda a: a.pop("mean")), "it holds "),
    ("embed", LATENTS, arrays(lambda a: a.update(mean=a["mean"][:50])), "mean: float32 of shape (50, 2), expected"),
    ("embed", LATENTS, arrays(lambda a: a.update(mean=a["mean"] * np.nan)), "mean: values that are not finite"),
    ("embed", LATENTS, arrays(lambda a: a.update(labels=a["labels"] + 90)), "labels: values from 90 to 99"),
    ("embed", LATENTS, arrays(lambda a: a.update(labels=a["labels"][::-1])), "its labels are not those of the test"),
    ("embed", LATENTS, arrays(lambda a: a.update(labels=a["labels"].astype(float))), "labels: float64 of shape (360,)"),
    ("plot", LATENTS, arrays(lambda a: a.update(kl_per_dimension=np.ones(3, np.float32))), "kl_per_dimension: "),
    ("plot", LATENTS, arrays(lambda a: a.update(nll=a["nll"][:7])), "nll: float32 of shape (7,)"),
    ("plot", SAMPLES, arrays(lambda a: a.pop("distances")), "it holds "),
    ("plot", SAMPLES, arrays(lambda a: a.update(neighbors=a["neighbors"][:3])), "neighbors: uint8 of shape (3,"),
    ("plot", SAMPLES, arrays(lambda a: a.update(samples=a["samples"] / 255)), "samples: float64 of shape"),
    ("plot", SNAPSHOTS, arrays(lambda a: a.update(indices=a["indices"] + 1000)), "indices: values from 1"),
    ("plot", SNAPSHOTS, arrays(lambda a: a.update(indices=a["indices"][::-1])), "its images are not the first"),
    ("plot", SNAPSHOTS, arrays(lambda a: a.update(epochs=a["epochs"] + 1)), "epochs: values from 2 to 2"),
    ("plot", SNAPSHOTS, arrays(lambda a: a.update(probabilities=a["probabilities"] * 9)), "probabilities: values from"),
    ("plot", HISTORY, lines(lambda rows: [*rows, rows[1]]), "2 rows, expected 1"),
    ("plot", HISTORY, lines(lambda rows: rows[:1]), "0 rows, expected 1"),
    ("plot", HISTORY, cell("train_elbo", "nan"), "train_elbo is 'nan' in row 1, expected a finite number"),
    ("plot", HISTORY, cell("train_elbo", "much"), "train_elbo is 'much' in row 1"),
    ("plot", HISTORY, cell("epoch", "3"), "its epochs are not those from 1 to 1"),
    (
        "plot",
        HISTORY,
        lines(lambda rows: [rows[0].replace("train_kl", "kl"), *rows[1:]]),
        "expected one named train_kl",
    ),
    ("plot", POINTS, lines(halve), "4 rows, expected 10"),
    ("plot", POINTS, lines(lambda rows: [rows[0], *rows[:0:-1]]), "its labels are not those of the test images"),
    ("plot", POINTS, cell("x", "inf"), "x is 'inf' in row 1"),
    ("plot", POINTS, cell("x", "1,2"), "row 1 does not have the header's 3 columns"),
    ("plot", EVALUATE, values(active_units=99), "active_units is 99, expected from 0 to 2"),
    ("plot", EVALUATE, values(active_units="many"), "active_units is many, expected a finite number"),
    ("report", EVALUATE, values(test_nll=float("nan")), "test_nll is nan, expected a finite number"),
    ("report", EVALUATE, values(test_nll="88.1"), "test_nll is 88.1, expected a finite number"),
    ("report", EVALUATE, values(test_nll=10**400), "test_nll is 1000"),
    ("report", EVALUATE, lines(lambda rows: ["[]"]), "not a table of numbers by name"),
    ("report", BY_CLASS, lines(halve), "4 rows, expected 10"),
    ("report", BY_CLASS, cell("class", "9"), "its classes and images are not those of the test images"),
    ("report", BY_CLASS, cell("images", "1"), "its classes and images are not those of the test images"),
    ("report", BY_CLASS, cell("nll", ""), "nll is '' in row 1"),
]


@pytest.mark.fault
@pytest.mark.parametrize(("name", "path", "mutate", "reason"), UNFIT)
def test_an_input_that_does_not_fit_is_told_with_the_stage_that_writes_it(copied, refusal, name, path, mutate, reason):
    mutate(path)
    status, message = refusal(name)
    assert status == 2
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert message.endswith(f"; run `dvc repro --force --single-item {writer(path)}` to recreate it")


def writer(path):
    """The stage that dvc.yaml says writes a file."""
    for name, stage in PIPELINE.items():
        outs = [*stage.get("outs", []), *(out for metric in stage.get("metrics", []) for out in metric)]
        if any(Path(path).is_relative_to(out) for out in outs):
            return name
    raise AssertionError(path)


def test_the_stages_that_messages_name_are_those_of_dvc_yaml():
    outs = [out for stage in PIPELINE.values() for key in ("outs", "metrics") for out in stage.get(key, [])]
    paths = {path for out in outs for path in (out if isinstance(out, dict) else [out])}
    assert stages.WRITERS.keys() == paths
    assert {path: writer(path) for path in paths} == stages.WRITERS


@pytest.mark.fault
def test_training_refuses_pixels_that_the_likelihood_does_not_fit(copied, refusal):
    change(prepare={"binarization": "none"}, model={"likelihood": "relaxed_bernoulli"})
    status, message = refusal("train")
    assert status == 2
    assert message.startswith(f"{TRAIN}: prepared with other settings (model.likelihood: got 'relaxed_bernoulli'")


@pytest.mark.fault
def test_a_picture_is_read_to_its_end(copied, refusal):
    half_of_the_pictures_bytes(PICTURE)
    status, message = refusal("report")
    assert (status, message[: len(PICTURE) + 10]) == (2, f"{PICTURE}: damaged ")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "function", "metric"),
    [
        ("evaluate", "vae.evaluation.latent_space.mmd", "prior_mmd"),
        ("sample", "vae.evaluation.samples.frechet_distance", "frechet_distance"),
    ],
)
def test_a_metric_that_is_not_finite_is_named(copied, refusal, monkeypatch, name, function, metric):
    monkeypatch.setattr(function, lambda *_: float("nan"))
    status, message = refusal(name)
    assert status == 1
    assert message.startswith(f"{metric} is not finite, so nothing was written")


# Other ends


def end(error):
    """Run a stage that raises this error, and return its exit status."""

    def stage(settings):
        raise error

    with pytest.raises(SystemExit) as ended:
        stages.run(stage)
    return ended.value.code


@pytest.fixture
def alone(project, monkeypatch):
    """A project, and no arguments on the command line."""
    monkeypatch.setattr(sys, "argv", ["stages/some.py"])


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("data/x: not found"), 2, "data/x: not found"),
        (MissingFile("data/x"), 2, "data/x: not found; run `dvc repro` to create it"),
        (DamagedFile("data/x", "cut"), 2, "data/x: damaged (cut); delete it and run `dvc repro`"),
        (SettingError("train.device", "got 'cuda'"), 2, "params.yaml: train.device: got 'cuda'"),
        (WorkError("the loss is not finite"), 1, "the loss is not finite"),
        (WorkError("several\nlines"), 1, "several\nlines"),
        (OSError(28, "No space left on device", "data/x"), 1, "data/x: No space left on device"),
        (PermissionError(13, "Permission denied", "data/x"), 1, "data/x: Permission denied"),
        (OSError(5, "Input/output error"), 1, "input or output: Input/output error"),
        (OSError("a reason alone"), 1, "input or output: a reason alone"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(signal.SIGINT, "stopped by SIGINT"), 130, "stopped by SIGINT"),
        (Interrupted(signal.SIGTERM, "stopped by SIGTERM"), 143, "stopped by SIGTERM"),
    ],
)
def test_each_kind_of_error_has_its_exit_status(alone, capsys, error, status, message):
    assert end(error) == status
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_a_mistake_in_the_code_is_not_hidden(alone):
    with pytest.raises(ZeroDivisionError):
        end(ZeroDivisionError())


def test_a_stage_that_ends_well_says_nothing_and_gets_the_settings(alone, capsys):
    given = []
    stages.run(given.append)
    assert given == [load_settings(ROOT / "params.yaml")]
    assert capsys.readouterr() == ("", "")


def test_a_file_where_a_folder_should_be_is_reported_by_name(project, refusal):
    change(**SMALL)
    Path("data").write_text("a file")
    status, message = refusal("download")
    assert status == 1
    assert message.startswith("data")
