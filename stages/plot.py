"""Draw the pictures of a run: one PNG file in plots/images for each entry of vae/pictures that applies to it."""

import numpy as np
import pandas as pd

from stages import run
from vae import artifacts
from vae.data.splits import read_splits
from vae.errors import UnfitFile
from vae.files import read_numbers, read_table, replacing
from vae.model import load_trained
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
    splits, prepared = read_splits("data/prepared", "test")
    test, classes = splits["test"], prepared["classes"]
    model = load_trained("data/model.safetensors", prepared)
    labels, epochs = test.labels.numpy(), model.metadata["epochs"]
    sizes = dict(zip(("channels", "height", "width"), model.image_shape, strict=True))
    return Results(
        model=model,
        test=test,
        classes=classes,
        caption=describe(model.metadata, model.settings.likelihood),
        snapshots=_read_snapshots(labels, epochs=epochs, **sizes),
        latents=artifacts.read_latents("data/latents.npz", labels, len(classes), latent=model.latent_dim),
        samples=artifacts.read("data/samples.npz", artifacts.SAMPLES, classes=len(classes), **sizes),
        history=_read_history(epochs),
        points=_read_points([classes[label] for label in test.labels[: settings.embed.images]]),
        method=settings.embed.method,
        active_units=_read_active_units(model.latent_dim),
        settings=settings.plot,
    )


def _read_snapshots(labels: np.ndarray, **sizes: int) -> dict[str, np.ndarray]:
    path = "data/snapshots.npz"
    snapshots = artifacts.read(path, artifacts.SNAPSHOTS, images=len(labels), **sizes)
    if not np.array_equal(snapshots["indices"], np.unique(labels, return_index=True)[1]):
        raise UnfitFile(path, "its images are not the first test images of each class")
    return snapshots


def _read_history(epochs: int) -> pd.DataFrame:
    path = "plots/history.csv"
    history = pd.DataFrame(read_table(path, [], artifacts.HISTORY, rows=epochs)).astype({"epoch": int})
    if not np.array_equal(history["epoch"], np.arange(1, epochs + 1)):
        raise UnfitFile(path, f"its epochs are not those from 1 to {epochs}")
    return history


def _read_points(labels: list[str]) -> pd.DataFrame:
    path = "plots/embedding.csv"
    points = pd.DataFrame(read_table(path, ["label"], ["x", "y"], rows=len(labels)))
    if points["label"].tolist() != labels:
        raise UnfitFile(path, "its labels are not those of the test images")
    return points


def _read_active_units(latent_dim: int) -> int:
    path = "metrics/evaluate.json"
    found = read_numbers(path).get("active_units")
    if found not in range(latent_dim + 1):
        raise UnfitFile(path, f"active_units is {found}, expected from 0 to {latent_dim}")
    return found


if __name__ == "__main__":
    run(plot)
