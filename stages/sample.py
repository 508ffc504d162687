"""Compare samples from the model with real images: -> metrics/sample.json, data/samples.npz."""

import torch

from stages import run
from vae import ranks
from vae.artifacts import check_finite
from vae.data.images import binarize
from vae.data.splits import read_splits
from vae.device import set_up
from vae.evaluation import classifier as judging
from vae.evaluation.samples import confidence, distance_ratio, generate, metrics, nearest
from vae.evaluation.uncertainty import flat
from vae.files import write_arrays, write_json
from vae.model import load_trained
from vae.seeds import derive
from vae.settings import Settings

SHOWN = 100  # samples that are kept, with their nearest training images
SETS = 3  # independent sets of samples, whose spread is part of the standard errors
COMPARED = 2_000  # images of each kind compared with every training image: enough for a mean to half a percent


def sample(settings: Settings) -> None:
    """Evaluate as many samples as test images, and as many training images for reference."""
    device = set_up(settings.train.device)
    splits, prepared = read_splits("data/prepared", "train", "test")
    model = load_trained("data/model.safetensors", prepared, str(device))
    classifier = judging.load("data/classifier.safetensors", prepared, str(device))

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive(settings.sample.seed, purpose))

    known, test = splits["train"].images, splits["test"].images
    if prepared["binarization"] == "dynamic":
        known = binarize(known, "dynamic", generator("sample.training"))  # as training does for each mini-batch
    n = min(settings.sample.images, len(known), len(test))
    chosen = generator("sample.choice")
    chosen_test, chosen_known = (images[torch.randperm(len(images), generator=chosen)[:n]] for images in (test, known))
    sets = [generate(model, n, settings.sample.seed, number) for number in range(SETS)]
    if ranks.rank() > 0:
        return
    real, trained_on = (judging.judge(classifier, images.to(device)) for images in (chosen_test, chosen_known))
    drawn, judged = sets[0], [judging.judge(classifier, images) for images in sets]
    scores = metrics(judged, real, trained_on, settings.sample.neighbors, settings.sample.seed)

    distances, indices = nearest(drawn[:COMPARED], known)
    usual, _ = nearest(chosen_test[:COMPARED].to(device), known)
    scores |= flat(distance_ratio(distances, usual))
    probabilities = judged[0].probabilities[:SHOWN]
    kept = {
        "samples": drawn[:SHOWN],
        "neighbors": known[indices[:SHOWN].cpu()],
        "distances": distances[:SHOWN],
        "predicted": probabilities.argmax(dim=1),
        "confidence": confidence(probabilities),
    }
    arrays = {name: values.cpu().numpy() for name, values in kept.items()}
    check_finite(scores | arrays)
    write_json("metrics/sample.json", {name: round(value, 4) for name, value in scores.items()})
    write_arrays("data/samples.npz", arrays)


if __name__ == "__main__":
    run(sample, shared=True)
