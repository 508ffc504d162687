"""Compare samples from the model with real images: -> metrics/sample.json, data/samples.npz."""

import torch

from stages import run
from vae.data.images import binarize
from vae.data.splits import read_split
from vae.device import set_up
from vae.evaluation import classifier as judging
from vae.evaluation.samples import confidence, distance_ratio, generate, metrics, nearest
from vae.evaluation.uncertainty import flat
from vae.files import write_arrays, write_json
from vae.model import load
from vae.seeds import derive
from vae.settings import Settings

SHOWN = 100  # samples that are kept, with their nearest training images
SETS = 3  # independent sets of samples, whose spread is part of the standard errors
COMPARED = 2_000  # images of each kind compared with every training image: enough for a mean to half a percent


def sample(settings: Settings) -> None:
    """Evaluate as many samples as test images, and as many training images for reference."""
    device = set_up(settings.train.device)
    model = load("data/model.safetensors", str(device))
    classifier = judging.load("data/classifier.safetensors", str(device))
    training, prepared = read_split("data/prepared/train.safetensors")
    test, _ = read_split("data/prepared/test.safetensors")

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive(settings.sample.seed, purpose))

    known = training.images
    if prepared["binarization"] == "dynamic":
        known = binarize(known, "dynamic", generator("sample.training"))  # as training does for each mini-batch
    n = min(settings.sample.images, len(known), len(test))
    chosen = generator("sample.choice")
    chosen_test, chosen_known = (
        images[torch.randperm(len(images), generator=chosen)[:n]] for images in (test.images, known)
    )
    real, trained_on = (judging.judge(classifier, images.to(device)) for images in (chosen_test, chosen_known))
    drawn = generate(model, n, settings.sample.seed)
    others = (generate(model, n, settings.sample.seed, number) for number in range(1, SETS))
    judged = [judging.judge(classifier, images) for images in (drawn, *others)]
    scores = metrics(judged, real, trained_on, settings.sample.neighbours, settings.sample.seed)

    known = known.to(device)
    distances, indices = nearest(drawn[:COMPARED], known)
    usual, _ = nearest(chosen_test[:COMPARED].to(device), known)
    scores |= flat({"neighbour_distance_ratio": distance_ratio(distances, usual)})
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
