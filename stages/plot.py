"""Draw the pictures: what the model makes of test images and of its latent space, and how good it is."""

import pandas as pd
from matplotlib.figure import Figure

from stages import run
from vae import pictures
from vae.model import load
from vae.pictures import Results
from vae.settings import Settings
from vae.storage import read_arrays, read_tensors, readable, replacing


def plot(settings: Settings) -> None:
    """Draw what the stages before left as PNG files in plots/images."""
    for name, figure in _draw(_read(settings)).items():
        with replacing(f"plots/images/{name}.png") as file:
            figure.savefig(file, format="png", dpi=settings.plot.dpi, metadata={"Software": None})


def _draw(results: Results) -> dict[str, Figure]:
    return {
        "reconstructions": pictures.reconstructions(results),
        "reconstructions_extremes": pictures.reconstructions_extremes(results),
        "reconstructions_by_epoch": pictures.reconstructions_by_epoch(results),
        "uncertainty": pictures.uncertainty(results),
        "samples": pictures.samples(results),
        **({"samples_by_class": pictures.samples_by_class(results)} if results.model.classes else {}),
        "samples_neighbours": pictures.samples_neighbours(results),
        "interpolations": pictures.interpolations(results),
        "traversals": pictures.traversals(results),
        **({"manifold": pictures.manifold(results)} if results.model.latent_dim == 2 else {}),
        "embedding": pictures.embedding(results),
        "embedding_by_class": pictures.embedding_by_class(results),
        "embedding_thumbnails": pictures.embedding_thumbnails(results),
        "kl_per_dimension": pictures.kl_per_dimension(results),
        "elbo": pictures.elbo(results),
        "error_by_class": pictures.error_by_class(results),
        "confusion": pictures.confusion(results),
    }


def _read(settings: Settings) -> Results:
    test, prepared = read_tensors("data/prepared/test.safetensors")
    return Results(
        model=load("data/model.safetensors"),
        test=test,
        classes=prepared["classes"],
        snapshots=read_arrays("data/snapshots.npz"),
        latents=read_arrays("data/latents.npz"),
        samples=read_arrays("data/samples.npz"),
        # Without a validation split its columns are there, but empty.
        history=_read_frame("plots/history.csv").dropna(axis="columns", how="all"),
        points=_read_frame("plots/embedding.csv").astype({"label": str}),
        method=settings.embed.method,
        draws=settings.plot.samples,
        seed=settings.plot.seed,
    )


def _read_frame(path: str) -> pd.DataFrame:
    with readable(path):
        return pd.read_csv(path)


if __name__ == "__main__":
    run(plot)
