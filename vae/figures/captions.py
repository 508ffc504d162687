"""The settings' names as people write them, and the line that says what a model was trained on."""

from collections.abc import Mapping
from typing import Any

DATASETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "digits": "Digits (8 x 8)"}
LIKELIHOODS = {
    "relaxed_bernoulli": "relaxed Bernoulli, no likelihood",
    "continuous_bernoulli": "continuous Bernoulli",
    "discretized_logistic": "discretized logistic",
}
METHODS = {"tsne": "t-SNE", "pca": "PCA"}


def describe(metadata: Mapping[str, Any]) -> str:
    """Say in one line what a model was trained on and for how long, from the metadata in its file."""
    epochs, best = metadata["epochs"], metadata["best_epoch"]
    pixels = f"{metadata['binarization']} binarization"
    if metadata["binarization"] == "none":
        pixels = f"grey-scale ({LIKELIHOODS[metadata['model']['likelihood']]})"
    duration = f"{epochs} epochs" if epochs > 1 else "1 epoch"
    kept = "" if best in (None, epochs) else f" (best: {best})"
    return f"{DATASETS[metadata['dataset']]}, {pixels}, {duration}{kept}"


def number(value: float, decimals: int) -> str:
    """Write a number with a true minus sign, and with none where it rounds to zero."""
    rounded = round(float(value), decimals) + 0.0
    return f"{rounded:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
