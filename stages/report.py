"""Put the run's metrics, pictures, settings and provenance on one self-contained page -> plots/report.html."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread

from stages import run
from vae.data.images import Split
from vae.data.splits import read_splits
from vae.errors import UnfitFile
from vae.files import read_numbers, read_table, readable, replacing
from vae.model import load_trained
from vae.pictures.captions import DATASETS, describe
from vae.report import provenance
from vae.report.page import render
from vae.report.sections import BY_CLASS
from vae.settings import Settings

METRICS = ("metrics/train.json", "metrics/classify.json", "metrics/evaluate.json", "metrics/sample.json")
MODEL, PREPARED, PICTURES = Path("data/model.safetensors"), Path("data/prepared"), Path("plots/images")


def report(settings: Settings) -> None:
    """Gather the results of the earlier stages and their provenance."""
    splits, prepared = read_splits(PREPARED, *_splits())
    metadata = load_trained(MODEL, prepared).metadata
    shown = _settings(settings, metadata)
    files = [*(PREPARED / f"{name}.safetensors" for name in splits), MODEL]
    page = render(
        title=f"A variational autoencoder on {DATASETS[metadata['dataset']]}",
        caption=describe(metadata, metadata["model"]["likelihood"]),
        metrics={key: value for path in METRICS for key, value in read_numbers(path).items()},
        by_class=_read_by_class(splits["test"], prepared["classes"]),
        pictures=_read_pictures(),
        settings=shown,
        provenance={
            "Files (SHA-256)": {path.as_posix(): provenance.checksum(path) for path in files},
            "Training": metadata["provenance"],
            "Digests (SHA-256)": {"settings": provenance.settings_digest(shown)},
            "Versions": provenance.versions(),
        },
    )
    with replacing("plots/report.html") as file:
        file.write(page.encode())


def _settings(settings: Settings, metadata: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings by section; those of the model and its training come from the model's file."""
    return {
        "download": settings.download.model_dump(),
        "prepare": settings.prepare.model_dump(),
        "model": metadata["model"],
        "train": metadata["train"],
        "classify": settings.classify.model_dump(),
        "evaluate": settings.evaluate.model_dump(),
        "sample": settings.sample.model_dump(),
        "embed": settings.embed.model_dump(),
        "plot": settings.plot.model_dump(),
    }


def _splits() -> list[str]:
    validated = (PREPARED / "validation.safetensors").exists()
    return ["train", "validation", "test"] if validated else ["train", "test"]


def _read_pictures() -> dict[str, bytes]:
    pictures = {}
    for path in sorted(PICTURES.glob("*.png")):
        with readable(path) as file:
            imread(file, format="png")  # raises if anything in it is wrong
            file.seek(0)
            pictures[path.stem] = file.read()
    if not pictures:
        raise UnfitFile(PICTURES, "no pictures")
    return pictures


def _read_by_class(test: Split, classes: list[str]) -> list[dict[str, str]]:
    path = "plots/error_by_class.csv"
    labels, counts = np.unique(test.labels.numpy(), return_counts=True)
    first, *numbers = BY_CLASS
    table = read_table(path, [first], numbers, rows=len(labels))
    if table["class"] != [classes[label] for label in labels] or table.get("images") != counts.tolist():
        raise UnfitFile(path, "its classes and images are not those of the test images")
    texts = {name: [f"{value:g}" if name == "images" else str(value) for value in table[name]] for name in table}
    return [dict(zip(texts, row, strict=True)) for row in zip(*texts.values(), strict=True)]


if __name__ == "__main__":
    run(report)
