"""Draw the pictures: reconstructions, samples, the latent space and the training's course."""

import pandas as pd
import torch

from stages import run
from vae import figures
from vae.model import load
from vae.settings import Settings
from vae.storage import read_arrays, read_tensors, readable, replacing

EXAMPLES = 6  # test images of each class


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
        reconstructed = model.reconstruct(inputs[chosen].flatten(0, 1)).unflatten(0, chosen.shape)
        sampled = model.sample(settings.plot.samples, generator=torch.Generator().manual_seed(settings.plot.seed))

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
        "embedding": figures.embedding(embedding, classes, settings.embed.method, caption),
        "elbo": figures.elbo(history, caption),
    }
    for name, figure in pictures.items():
        with replacing(f"plots/images/{name}.png") as file:
            figure.savefig(file, format="png", dpi=settings.plot.dpi, metadata={"Software": None})


def _read_frame(path: str) -> pd.DataFrame:
    with readable(path):
        return pd.read_csv(path)


if __name__ == "__main__":
    run(plot)
