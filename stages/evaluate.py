"""Judge the model on the test set: numbers -> metrics/evaluate.json, by image -> data/latents.npz, tables -> plots."""

import torch

from stages import run
from vae.device import set_up
from vae.evaluation import findings
from vae.model import load
from vae.preparation import Split, binarize
from vae.settings import Settings, mark_relaxed
from vae.storage import read_tensors, write_arrays, write_csv, write_json


def evaluate(settings: Settings) -> None:
    """Measure every test image; the pixels are those that the prepare stage drew once."""
    device = set_up(settings.train.device)
    model = load("data/model.safetensors", str(device))
    test, metadata = read_tensors("data/prepared/test.safetensors")
    splits = [test, _training_images(settings)]
    on_device = [{name: split[name].to(device) for name in ("images", "labels")} for split in splits]
    found = findings.examine(model, *on_device, metadata["binarization"] != "none", settings.evaluate)

    classes = metadata["classes"]
    write_arrays("data/latents.npz", findings.arrays(found))
    write_csv("plots/error_by_class.csv", findings.errors_by_class(found, classes))
    write_csv("plots/kl_per_dimension.csv", findings.ranked_kl(found))
    write_csv("plots/confusion.csv", findings.confusion(found, classes))
    rounded = {name: round(value, 4) for name, value in findings.metrics(found, test["images"][0].numel()).items()}
    write_json("metrics/evaluate.json", mark_relaxed(rounded, model.metadata["model"]["likelihood"]))


def _training_images(settings: Settings) -> Split:
    """The first training images, drawn once where each mini-batch of the training drew them afresh."""
    split, metadata = read_tensors("data/prepared/train.safetensors")
    first = {name: split[name][: settings.evaluate.training_images] for name in ("images", "labels")}
    if metadata["binarization"] == "dynamic":
        generator = torch.Generator().manual_seed(settings.evaluate.seed)
        first["images"] = binarize(first["images"], "dynamic", generator)
    return first


if __name__ == "__main__":
    run(evaluate)
