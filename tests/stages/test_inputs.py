"""Inputs of every stage: missing, damaged, and intact but of something else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import stages
from tests.stages.conftest import PIPELINE, change, execute
from vae.files import read_arrays, read_tensors, write_arrays, write_tensors

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
