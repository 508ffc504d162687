"""Map the posterior means of test images to two dimensions: data/latents.npz -> plots/embedding.csv."""

from stages import run
from vae.evaluation.embedding import embed
from vae.files import read_arrays, read_tensors, write_csv
from vae.seeds import derive
from vae.settings import Settings


def embed_stage(settings: Settings) -> None:
    """Write one row per point: its position and its class."""
    latents = read_arrays("data/latents.npz")
    _, metadata = read_tensors("data/prepared/test.safetensors")
    chosen = settings.embed.images
    seed = derive(settings.embed.seed, "embed")
    points = embed(latents["mean"][:chosen], settings.embed.method, settings.embed.perplexity, seed)
    labels = [metadata["classes"][label] for label in latents["labels"][:chosen]]
    rows = [{"x": f"{x:.4f}", "y": f"{y:.4f}", "label": label} for (x, y), label in zip(points, labels, strict=True)]
    write_csv("plots/embedding.csv", rows)


if __name__ == "__main__":
    run(embed_stage)
