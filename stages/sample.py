"""Compare draws from the model with real images: -> metrics/sample.json, data/samples.npz."""

import torch

from stages import run
from vae import classifier as judging
from vae.device import set_up
from vae.evaluation.samples import confidence, distance_ratio, draw, metrics, nearest
from vae.model import load
from vae.preparation import binarize
from vae.settings import Settings
from vae.storage import read_tensors, write_arrays, write_json

SHOWN = 100  # samples that are kept, with their nearest training images
COMPARED = 2_000  # images of each kind that are compared with every training image: enough for a median


def sample(settings: Settings) -> None:
    """Judge as many samples as test images, and as the floor under all measures as many training images."""
    device = set_up(settings.train.device)
    model = load("data/model.safetensors", str(device))
    classifier = judging.load("data/classifier.safetensors", str(device))
    training, prepared = read_tensors("data/prepared/train.safetensors")
    test, _ = read_tensors("data/prepared/test.safetensors")

    generator = torch.Generator().manual_seed(settings.sample.seed)
    known = training["images"]
    if prepared["binarization"] == "dynamic":
        known = binarize(known, "dynamic", generator)  # which training does for each mini-batch
    n = min(settings.sample.images, len(known), len(test["images"]))
    sets = [images[torch.randperm(len(images), generator=generator)[:n]] for images in (test["images"], known)]
    drawn = draw(model, n, settings.sample.seed)
    real, floor = (images.to(device) for images in sets)
    judged = [judging.judge(classifier, images) for images in (drawn, real, floor)]
    scores = metrics(*judged, settings.sample.neighbours)

    known = known.to(device)
    distances, indices = nearest(drawn[:COMPARED], known)
    usual, _ = nearest(real[:COMPARED], known)
    scores["neighbour_distance_ratio"] = distance_ratio(distances, usual)
    write_json("metrics/sample.json", {name: round(value, 4) for name, value in scores.items()})
    probabilities = judged[0].probabilities[:SHOWN]
    kept = {
        "samples": drawn[:SHOWN],
        "neighbours": known[indices[:SHOWN]],
        "distances": distances[:SHOWN],
        "predicted": probabilities.argmax(dim=1),
        "confidence": confidence(probabilities),
    }
    write_arrays("data/samples.npz", {name: values.cpu().numpy() for name, values in kept.items()})


if __name__ == "__main__":
    run(sample)
