"""Put the run's metrics, pictures, settings and provenance on one self-contained page -> plots/report.html."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from stages import run
from vae.errors import UnfitFile
from vae.files import read_tensors, readable, replacing
from vae.pictures.captions import DATASETS, describe
from vae.report import provenance
from vae.report.page import png_size, render
from vae.settings import Settings

METRICS = ("metrics/train.json", "metrics/classify.json", "metrics/evaluate.json", "metrics/sample.json")
MODEL, PREPARED, PICTURES = Path("data/model.safetensors"), Path("data/prepared"), Path("plots/images")


def report(settings: Settings) -> None:
    """Gather the results of the earlier stages and their provenance."""
    metadata = _read_metadata()
    shown = _settings(settings, metadata)
    page = render(
        title=f"A variational autoencoder on {DATASETS[metadata['dataset']]}",
        caption=describe(metadata, metadata["model"]["likelihood"]),
        metrics={key: value for path in METRICS for key, value in _read_json(path).items()},
        by_class=_read_rows("plots/error_by_class.csv"),
        pictures=_read_pictures(),
        settings=shown,
        provenance={
            "Files (SHA-256)": {path.as_posix(): _checksum(path) for path in [*_splits(), MODEL]},
            "Training": metadata["provenance"],
            "Digests (SHA-256)": {"settings": provenance.settings_digest(shown)},
            "Versions": provenance.versions(),
        },
    )
    with replacing("plots/report.html") as file:
        file.write(page.encode())


def _read_metadata() -> dict[str, Any]:
    _, metadata = read_tensors(MODEL)
    if "provenance" not in metadata:
        raise UnfitFile(MODEL, "written by an older version of this code")
    return metadata


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


def _splits() -> list[Path]:
    paths = [PREPARED / f"{name}.safetensors" for name in ("train", "validation", "test")]
    return [path for path in paths if path.exists() or path.stem != "validation"]


def _checksum(path: Path) -> str:
    read_tensors(path)  # raises if the file is missing or damaged
    return provenance.checksum(path)


def _read_pictures() -> dict[str, bytes]:
    pictures = {}
    for path in sorted(PICTURES.glob("*.png")):
        with readable(path) as file:
            pictures[path.stem] = file.read()
            png_size(pictures[path.stem])
    if not pictures:
        raise UnfitFile(PICTURES, "no pictures")
    return pictures


def _read_json(path: str) -> dict[str, Any]:
    with readable(path) as file:
        return dict(json.load(file))


def _read_rows(path: str) -> list[dict[str, str]]:
    with readable(path):
        return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


if __name__ == "__main__":
    run(report)
