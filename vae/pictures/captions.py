"""Display names of settings, and the caption that says what a model was trained on."""

from collections.abc import Mapping
from typing import Any

DATASETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "digits": "Digits (8 x 8)"}
LIKELIHOODS = {
    "relaxed_bernoulli": "relaxed Bernoulli, not a likelihood",
    "continuous_bernoulli": "continuous Bernoulli",
    "discretized_logistic": "discretized logistic",
}
METHODS = {"tsne": "t-SNE", "pca": "PCA"}


def describe(metadata: Mapping[str, Any], likelihood: str) -> str:
    """Say in one line what a model was trained on and for how long.

    Args:
        metadata: the metadata in the model's file: `dataset`, `binarization`, `epochs`, `best_epoch`.
        likelihood: the name of the model's likelihood, which is shown for grayscale images.
    """
    epochs, best = metadata["epochs"], metadata["best_epoch"]
    kind = f"{metadata['binarization']} binarization"
    if metadata["binarization"] == "none":
        kind = f"grayscale ({LIKELIHOODS[likelihood]})"
    duration = f"{epochs} epochs" if epochs > 1 else "1 epoch"
    kept = "" if best in (None, epochs) else f" (best: {best})"
    return f"{DATASETS[metadata['dataset']]}, {kind}, {duration}{kept}"


def number(value: float, decimals: int) -> str:
    """Format a number with a true minus sign, and without one if it rounds to zero."""
    rounded = round(float(value), decimals) + 0.0
    return f"{rounded:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
