"""Evaluate the model on the test set: totals -> metrics/evaluate.json, images -> data/latents.npz, tables -> plots."""

from dataclasses import replace

import torch

from stages import run
from vae.artifacts import check_finite
from vae.data.images import Split, binarize
from vae.data.splits import read_splits
from vae.device import set_up
from vae.evaluation import evaluate as findings
from vae.files import write_arrays, write_csv, write_json
from vae.model import load_trained
from vae.model.distributions.likelihoods import mark_relaxed
from vae.seeds import derive
from vae.settings import Settings


def evaluate(settings: Settings) -> None:
    """Evaluate every test image, with the pixels that the prepare stage drew."""
    device = set_up(settings.train.device)
    splits, prepared = read_splits("data/prepared", "train", "test")
    model = load_trained("data/model.safetensors", prepared, str(device))
    test = splits["test"].to(device)
    training = _training_images(splits["train"], prepared["binarization"], settings).to(device)
    found = findings.examine(model, test, training, prepared["binarization"] != "none", settings.evaluate)
    if found is None:  # another rank writes the results
        return
    metrics, arrays = findings.metrics(found, test.images[0].numel()), findings.arrays(found)
    check_finite(metrics | arrays)

    classes = prepared["classes"]
    write_arrays("data/latents.npz", arrays)
    write_csv("plots/error_by_class.csv", findings.errors_by_class(found, classes))
    write_csv("plots/kl_per_dimension.csv", findings.ranked_kl(found))
    write_csv("plots/confusion.csv", findings.confusion(found, classes))
    rounded = {name: round(value, 4) for name, value in metrics.items()}
    write_json("metrics/evaluate.json", mark_relaxed(rounded, model.settings.likelihood))


def _training_images(split: Split, binarization: str, settings: Settings) -> Split:
    """The first training images, drawn once if training drew them anew for each mini-batch."""
    first = split.first(settings.evaluate.training_images)
    if binarization == "dynamic":
        generator = torch.Generator().manual_seed(derive(settings.evaluate.seed, "evaluate.training"))
        return replace(first, images=binarize(first.images, "dynamic", generator))
    return first


if __name__ == "__main__":
    run(evaluate, shared=True)
