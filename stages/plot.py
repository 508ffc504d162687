"""Draw the pictures of a run: one PNG file in plots/images for each entry of vae/pictures that applies to it."""

import json

import pandas as pd

from stages import run
from vae.data.splits import read_split
from vae.files import read_arrays, readable, replacing
from vae.model import load
from vae.pictures import PICTURES
from vae.pictures.captions import describe
from vae.pictures.results import Results
from vae.settings import Settings


def plot(settings: Settings) -> None:
    """Draw the results of the earlier stages; nothing is written until every picture is drawn."""
    results = read_results(settings)
    figures = {picture.name: picture.draw(results) for picture in PICTURES if picture.applies(results)}
    for name, figure in figures.items():
        with replacing(f"plots/images/{name}.png") as file:
            figure.savefig(file, format="png", dpi=settings.plot.dpi, metadata={"Software": None})


def read_results(settings: Settings) -> Results:
    """Read the files of the earlier stages."""
    test, prepared = read_split("data/prepared/test.safetensors")
    model = load("data/model.safetensors")
    with readable("metrics/evaluate.json") as file:
        active_units = json.load(file)["active_units"]
    return Results(
        model=model,
        test=test,
        classes=prepared["classes"],
        caption=describe(model.metadata, model.settings.likelihood),
        snapshots=read_arrays("data/snapshots.npz"),
        latents=read_arrays("data/latents.npz"),
        samples=read_arrays("data/samples.npz"),
        # Without a validation split its columns exist but are empty.
        history=_read_frame("plots/history.csv").dropna(axis="columns", how="all"),
        points=_read_frame("plots/embedding.csv").astype({"label": str}),
        method=settings.embed.method,
        active_units=active_units,
        settings=settings.plot,
    )


def _read_frame(path: str) -> pd.DataFrame:
    with readable(path):
        return pd.read_csv(path)


if __name__ == "__main__":
    run(plot)
