"""Put two runs side by side on one HTML page: `python -m tools.compare REV REV [--output FILE]`.

REV is any Git revision, the name of a DVC experiment, or `workspace`; the workspace stays as it is. The page holds the
metrics with their differences, the settings that differ, the ELBO's curves overlaid, and both models'
results for the same test images and draws. Where both runs kept the values of the same test images, a difference comes
with its standard error over the images, paired. The page omits whatever a run no longer has, and says so.
"""

import argparse
import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib.image
import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from torch import Tensor

from tools.errors import reported
from tools.revisions import Run, open_run, read, read_metrics, read_settings
from vae import artifacts, report
from vae.errors import InputError, UnfitFile
from vae.evaluation.measures import BESIDE, MEASURES, RELAXED
from vae.files import read_arrays, read_table, read_tensors, replacing
from vae.model import VAE, load

PAGE, STYLE = Path(__file__).with_name("compare.html"), Path(report.__file__).with_name("style.css")
# The metrics that are means over the test images, and the names of the images' own values in data/latents.npz.
BY_IMAGE = {
    "test_nll": "nll",
    "test_elbo": "elbo",
    "reconstruction_nll": "reconstruction_nll",
    "reconstruction_mse": "mse",
    "reconstruction_ssim": "ssim",
    "reconstruction_error_rate": "error_rate",
    "kl": "kl",
}
CURVES = ("epoch", "train_elbo", "validation_elbo")
ROUNDING = 1e-3  # which metrics of four decimals and means of float32 values stay well below
SAMPLES, SAMPLE_COLUMNS, SEED = 50, 10, 0
COLORS = ("#0173b2", "#d55e00")

T = TypeVar("T")


class Row(NamedTuple):
    """A metric of two runs as the page shows it; unknown values are empty."""

    key: str
    name: str
    unit: str
    first: str
    second: str
    difference: str
    error: str
    ratio: str


def compare(first: Run, second: Run) -> str:
    """The page; whatever is unavailable for either run is omitted, with a note that says why.

    Raises:
        InputError: a run has no metrics or no settings.
    """
    runs = (first, second)
    metrics = [read_metrics(run) for run in runs]
    settings = [read_settings(run) for run in runs]
    notes: list[str] = []
    test = _attempt(notes, "Nothing is compared image by image", lambda: same_test_images(*runs))
    values = None
    if test is not None:
        values = _attempt(
            notes,
            "The differences have no standard errors",
            lambda: [_values_by_image(run, len(test["labels"])) for run in runs],
        )
    curves = _attempt(notes, "There are no curves", lambda: [_history(run) for run in runs])
    models = _attempt(
        notes, "There are no pictures", lambda: [read(run, "data/model.safetensors", load) for run in runs]
    )
    reconstructions = None
    if models is not None and test is not None:
        reconstructions = _attempt(notes, "There are no reconstructions", lambda: _reconstructions(models, test))
    rows = metric_rows(*metrics, *(values or ({}, {})))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(PAGE.read_text()).render(
        style=STYLE.read_text(),
        names=[run.name for run in runs],
        commits=[run.commit for run in runs],
        notes=notes,
        pairing=_pairing(rows),
        rows=rows,
        settings=changed_settings(*settings),
        curves=_uri(draw_curves(curves)) if curves else None,
        reconstructions=reconstructions,
        samples=_samples(models) if models else None,
        draws=_describe_draws(models) if models else None,
    )


def _attempt(notes: list[str], consequence: str, make: Callable[[], T]) -> T | None:
    try:
        return make()
    except InputError as error:
        notes.append(f"{consequence}: {error}.")
        return None


def same_test_images(first: Run, second: Run) -> dict[str, Tensor]:
    """The test images that both runs were judged on, as `images` and `labels`.

    Raises:
        InputError: they differ in an image, a binarized pixel, a label or their order, or one run's are missing.
    """
    one, other = (read(run, "data/prepared/test.safetensors", _read_test_images) for run in (first, second))
    for name in ("images", "labels"):
        if not torch.equal(one[name], other[name]):
            raise InputError(f"the runs differ in the {name} of data/prepared/test.safetensors")
    return one


def _read_test_images(path: Path) -> dict[str, Tensor]:
    tensors, _ = read_tensors(path)
    if not {"images", "labels"} <= tensors.keys():
        raise UnfitFile(path, f"it holds {', '.join(tensors) or 'nothing'}, expected images and labels")
    images, labels = tensors["images"], tensors["labels"]
    if images.ndim not in (3, 4) or not images.numel() or labels.shape != images.shape[:1]:
        raise UnfitFile(path, f"images of shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}")
    # Older versions stored gray images without an axis for channels.
    return {"images": images.reshape(len(images), -1, *images.shape[-2:]), "labels": labels}


def _values_by_image(run: Run, images: int) -> dict[str, np.ndarray]:
    def read_values(path: Path) -> dict[str, np.ndarray]:
        known = read_arrays(path).keys() & BY_IMAGE.values()  # other versions keep other values
        return artifacts.read(path, dict.fromkeys(sorted(known), artifacts.LATENTS["nll"]), images=images)

    return read(run, "data/latents.npz", read_values)


def _history(run: Run) -> pd.DataFrame:
    return pd.DataFrame(read(run, "plots/history.csv", lambda path: read_table(path, [], CURVES)))


def metric_rows(
    first: Mapping[str, float],
    second: Mapping[str, float],
    first_values: Mapping[str, np.ndarray],
    second_values: Mapping[str, np.ndarray],
) -> list[Row]:
    """One row per metric that either run has, known ones first.

    Args:
        first: the metrics of one run.
        second: those of the other.
        first_values: the first run's values of each test image, in arrays of shape (n,); empty if not comparable.
        second_values: the same of the other run, on the same images in the same order.
    """
    keys = [key for key in {**first, **second} if not key.endswith(BESIDE)]
    order = {key: place for place, key in enumerate(MEASURES)}
    rows = []
    for key in sorted(keys, key=lambda key: order.get(key.removeprefix(RELAXED), len(order))):
        name = BY_IMAGE.get(key.removeprefix(RELAXED))
        found = None
        if key in first and key in second and name in first_values and name in second_values:
            sides = ((first_values[name], first[key]), (second_values[name], second[key]))
            # Arrays with a different mean belong to another run, as in a workspace whose pipeline stopped halfway.
            if all(abs(values.mean(dtype=float) - mean) < ROUNDING for values, mean in sides):
                found = paired_difference(first_values[name], second_values[name])
        rows.append(_row(key, first.get(key), second.get(key), found))
    return rows


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The mean of second - first over images and its standard error; both of shape (n,)."""
    differences = second.astype(float) - first.astype(float)
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _row(key: str, first: float | None, second: float | None, paired: tuple[float, float] | None) -> Row:
    measure = MEASURES.get(key.removeprefix(RELAXED))
    name, unit, form = (measure.name, measure.unit, measure.form) if measure else (key, "", "")
    name = f"{name}, relaxed: not a likelihood" if key.startswith(RELAXED) else name
    values = ["" if value is None else _number(value, form or ".6g") for value in (first, second)]
    if first is None or second is None:
        return Row(key, name, unit, *values, "", "", "")
    if paired is None:
        return Row(key, name, unit, *values, _number(second - first, f"+{form or '.6g'}"), "", "")
    difference, error = paired
    precise = _two_digits(error, form)
    ratio = _number(difference / error, "+.1f") if error else ""
    return Row(key, name, unit, *values, _number(difference, f"+{precise}"), _number(error, precise), ratio)


def _two_digits(error: float, form: str) -> str:
    """The format that shows two digits of an error, in percent where the metric is."""
    scale, kind = (100, "%") if form.endswith("%") else (1, "f")
    decimals = max(0, 1 - math.floor(math.log10(error * scale))) if error else 2
    return f".{min(decimals, 8)}{kind}"


def _number(value: float, form: str) -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}")


def _pairing(rows: Sequence[Row]) -> str:
    if any(row.error for row in rows):
        return (
            "± is the standard error of the difference, paired over the same test images; below it is the "
            "difference in standard errors (s.e.). It holds for these weights; another training seed moves the "
            "values too. Differences without ± have no known error."
        )
    return "The differences stand alone: their standard errors are not known."


def changed_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The keys whose values differ, with both values; a key that one run does not know is empty there."""
    keys = [key for key in {**first, **second} if key not in first or key not in second or first[key] != second[key]]
    return [(key, _setting(first.get(key)), _setting(second.get(key))) for key in keys]


def _setting(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def draw_curves(histories: Sequence[pd.DataFrame]) -> bytes:
    """Both runs' ELBO over the epochs as a PNG file; columns `epoch`, `train_elbo` and optionally `validation_elbo`."""
    figure = Figure((6.4, 4), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for name, color, history in zip("AB", COLORS, histories, strict=True):
        for column, style in (("validation_elbo", "-"), ("train_elbo", "--")):
            if column in history:
                label = f"{name}, {column.removesuffix('_elbo')}"
                axes.plot(history["epoch"], history[column], style, color=color, label=label, marker=".", markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel("ELBO, nats per image")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


@torch.inference_mode()
def _reconstructions(models: Sequence[VAE], test: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    labels = test["labels"]
    chosen = [(labels == label).nonzero()[0].item() for label in labels.unique()]
    images = test["images"][chosen] / 255
    try:
        shown = [images, *(model.reconstruct(images, labels[chosen]) for model in models)]
    except (TypeError, ValueError) as error:
        raise InputError(f"data/model.safetensors does not fit data/prepared/test.safetensors ({error})") from error
    return [
        (title, _uri(tile(kind, len(chosen)))) for title, kind in zip(("Test images", "A", "B"), shown, strict=True)
    ]


@torch.inference_mode()
def _samples(models: Sequence[VAE]) -> list[tuple[str, str]]:
    shown = []
    for name, model in zip("AB", models, strict=True):
        labels = torch.arange(SAMPLES) % max(model.classes, 1)
        shown.append((name, _uri(tile(model.sample(SAMPLES, SEED, labels), SAMPLE_COLUMNS))))
    return shown


def _describe_draws(models: Sequence[VAE]) -> str:
    parts = [(model.settings.prior, model.settings.levels, model.latent_dim) for model in models]
    if parts[0] == parts[1]:
        return "Both models decode the same random draws, in the same positions."
    return "The random numbers have the same seed, but the models' priors differ, so positions do not correspond."


def tile(images: Tensor, columns: int) -> bytes:
    """Join images (n, [channels,] height, width) in [0, 1] into one PNG file, on white."""
    gap = 1
    images = images if images.dim() == 4 else images[:, None]
    n, channels, height, width = images.shape
    rows = math.ceil(n / columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels))
    for i, image in enumerate(images.movedim(1, -1).numpy()):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    colored = canvas if channels == 3 else canvas[..., :1].repeat(3, axis=-1)
    file = io.BytesIO()
    matplotlib.image.imsave(file, colored.clip(0, 1), format="png", metadata={"Software": None})
    return file.getvalue()


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def main() -> None:
    """Write the page; exit status 2 when a revision or its metrics are missing."""
    parser = argparse.ArgumentParser(prog="python -m tools.compare", description=__doc__.split("\n\n")[1])
    parser.add_argument("revisions", nargs=2, metavar="REV", help="a Git revision, an experiment's name or workspace")
    parser.add_argument("--output", type=Path, default=Path("compare.html"), help="the page (compare.html)")
    arguments = parser.parse_args()
    with reported():
        page = compare(*map(open_run, arguments.revisions))
        with replacing(arguments.output) as file:
            file.write(page.encode())
        print(arguments.output)


if __name__ == "__main__":
    main()
