"""Draw the pictures: reconstructions, samples, the latent space and the training's course."""

import pandas as pd
import torch
from matplotlib.figure import Figure

from stages import run
from vae import figures
from vae.model import VAE, load
from vae.settings import Settings
from vae.storage import read_arrays, read_tensors, readable, replacing

EXAMPLES = 6  # test images of each class
DRAWS_BY_CLASS = 8


def plot(settings: Settings) -> None:
    """Draw what the stages before left as PNG files in plots/images."""
    test, prepared = read_tensors("data/prepared/test.safetensors")
    snapshots = read_arrays("data/snapshots.npz")
    # Without a validation split its columns are there, but empty.
    history = _read_frame("plots/history.csv").dropna(axis="columns", how="all")
    embedding = _read_frame("plots/embedding.csv").astype({"label": str})
    model = load("data/model.safetensors")

    classes, caption = prepared["classes"], figures.describe(model.metadata)
    originals, inputs = test["originals"] / 255, test["images"] / 255
    chosen = torch.from_numpy(figures.first_of_each_class(test["labels"].numpy(), len(classes), EXAMPLES))
    followed = torch.from_numpy(snapshots["indices"])
    with torch.inference_mode():
        shown = chosen.flatten()
        reconstructed = model.reconstruct(inputs[shown], test["labels"][shown]).unflatten(0, chosen.shape)
        labels = torch.arange(settings.plot.samples) % len(classes)
        sampled = model.sample(settings.plot.samples, settings.plot.seed, labels)

    pictures = {
        "reconstructions": figures.reconstructions(
            originals[chosen].numpy(), inputs[chosen].numpy(), reconstructed.numpy(), classes, caption
        ),
        "reconstructions_by_epoch": figures.reconstructions_by_epoch(
            originals[followed].numpy(),
            inputs[followed].numpy(),
            snapshots["probabilities"],
            snapshots["epochs"],
            classes,
            caption,
        ),
        "samples": figures.samples(sampled.numpy(), caption),
        **({"samples_by_class": _samples_by_class(model, settings, classes, caption)} if model.classes else {}),
        "embedding": figures.embedding(embedding, classes, settings.embed.method, caption),
        "elbo": figures.elbo(history, caption),
    }
    for name, figure in pictures.items():
        with replacing(f"plots/images/{name}.png") as file:
            figure.savefig(file, format="png", dpi=settings.plot.dpi, metadata={"Software": None})


def _samples_by_class(model: VAE, settings: Settings, classes: list[str], caption: str) -> Figure:
    labels = [torch.full((DRAWS_BY_CLASS,), label) for label in range(len(classes))]
    drawn = torch.stack([model.sample(DRAWS_BY_CLASS, settings.plot.seed, label) for label in labels], dim=1)
    return figures.samples_by_class(drawn.numpy(), classes, caption)


def _read_frame(path: str) -> pd.DataFrame:
    with readable(path):
        return pd.read_csv(path)


if __name__ == "__main__":
    run(plot)
