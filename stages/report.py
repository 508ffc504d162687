"""Put the run on one page that can be mailed: metrics, pictures, settings and provenance -> plots/report.html."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from stages import run
from vae.device import set_up
from vae.errors import InputError
from vae.figures.captions import DATASETS, describe
from vae.report import provenance
from vae.report.page import png_size, render
from vae.settings import Settings
from vae.storage import read_tensors, readable, replacing

METRICS = ("metrics/train.json", "metrics/classify.json", "metrics/evaluate.json", "metrics/sample.json")
MODEL, PREPARED, PICTURES = Path("data/model.safetensors"), Path("data/prepared"), Path("plots/images")
CODE = ("stages", "vae")


def report(settings: Settings) -> None:
    """Gather what the stages before left, and say where it comes from."""
    device = set_up(settings.train.device)
    _, metadata = read_tensors(MODEL)
    shown = _settings(settings)
    page = render(
        title=f"A variational autoencoder on {DATASETS[metadata['dataset']]}",
        caption=describe(metadata),
        metrics={key: value for path in METRICS for key, value in _read_json(path).items()},
        by_class=_read_rows("plots/error_by_class.csv"),
        pictures=_read_pictures(),
        settings=shown,
        provenance={
            "Files (SHA-256)": {path.as_posix(): _checksum(path) for path in [*_splits(), MODEL]},
            "Digests (SHA-256)": {
                "code in stages/ and vae/": provenance.code_digest(CODE),
                "settings": provenance.settings_digest(shown),
            },
            "Versions": provenance.versions(),
            "Machine": {"device": provenance.machine(device)},
        },
    )
    with replacing("plots/report.html") as file:
        file.write(page.encode())


def _settings(settings: Settings) -> dict[str, dict[str, Any]]:
    sections = {
        "download": settings.download,
        "prepare": settings.prepare,
        "model": settings.model,
        "train": settings.train,
        "classify": settings.classify,
        "evaluate": settings.evaluate,
        "sample": settings.sample,
        "embed": settings.embed,
        "plot": settings.plot,
    }
    return {name: section.model_dump() for name, section in sections.items()}


def _splits() -> list[Path]:
    paths = [PREPARED / f"{name}.safetensors" for name in ("train", "validation", "test")]
    return [path for path in paths if path.exists() or path.stem != "validation"]


def _checksum(path: Path) -> str:
    read_tensors(path)  # which refuses a file that is missing or damaged
    return provenance.checksum(path)


def _read_pictures() -> dict[str, bytes]:
    pictures = {}
    for path in sorted(PICTURES.glob("*.png")):
        with readable(path) as file:
            pictures[path.stem] = file.read()
            png_size(pictures[path.stem])
    if not pictures:
        raise InputError(f"{PICTURES}: no pictures; run `dvc repro`, which makes them")
    return pictures


def _read_json(path: str) -> dict[str, Any]:
    with readable(path) as file:
        return dict(json.load(file))


def _read_rows(path: str) -> list[dict[str, str]]:
    with readable(path):
        return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


if __name__ == "__main__":
    run(report)
