"""Judge the model on the test set: -> metrics/evaluate.json, data/latents.npz."""

from stages import run
from vae.device import set_up
from vae.evaluation import metrics, score
from vae.model import load
from vae.settings import Settings, mark_relaxed
from vae.storage import read_tensors, write_arrays, write_json


def evaluate(settings: Settings) -> None:
    """Score every test image; the pixels are those that the prepare stage drew once."""
    device = set_up(settings.train.device)
    model = load("data/model.safetensors", str(device))
    test, _ = read_tensors("data/prepared/test.safetensors")
    split = {name: test[name].to(device) for name in ("images", "labels")}
    scores = score(model, split, settings.evaluate.importance_samples, settings.evaluate.seed)
    nll = -scores.log_likelihood
    arrays = {"mean": scores.mean, "elbo": scores.elbo.float(), "nll": nll.float(), "labels": test["labels"]}
    write_arrays("data/latents.npz", {name: values.numpy() for name, values in arrays.items()})
    rounded = {name: round(value, 4) for name, value in metrics(scores).items()}
    write_json("metrics/evaluate.json", mark_relaxed(rounded, model.metadata["model"]["likelihood"]))


if __name__ == "__main__":
    run(evaluate)
