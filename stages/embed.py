"""Map the posterior means of test images to two dimensions: data/latents.npz -> plots/embedding.csv."""

from stages import run
from vae.artifacts import read_latents
from vae.data.splits import read_splits
from vae.evaluation.embedding import embed
from vae.files import write_csv
from vae.seeds import derive
from vae.settings import Settings


def embed_stage(settings: Settings) -> None:
    """Write one row per point: its position and its class."""
    splits, prepared = read_splits("data/prepared", "test")
    classes = prepared["classes"]
    latents = read_latents("data/latents.npz", splits["test"].labels.numpy(), len(classes))
    chosen = settings.embed.images
    seed = derive(settings.embed.seed, "embed")
    points = embed(latents["mean"][:chosen], settings.embed.method, settings.embed.perplexity, seed)
    labels = [classes[label] for label in latents["labels"][:chosen]]
    rows = [{"x": f"{x:.4f}", "y": f"{y:.4f}", "label": label} for (x, y), label in zip(points, labels, strict=True)]
    write_csv("plots/embedding.csv", rows)


if __name__ == "__main__":
    run(embed_stage)
