from typing import get_args

import pytest

from vae.pictures.captions import DATASETS, LIKELIHOODS, METHODS, describe
from vae.settings import DatasetName, Embed, Model


def test_every_setting_has_a_name():
    assert set(DATASETS) == set(get_args(DatasetName))
    for_gray = set(get_args(Model.model_fields["likelihood"].annotation)) - {"bernoulli"}
    assert set(LIKELIHOODS) == for_gray
    assert set(METHODS) == set(get_args(Embed.model_fields["method"].annotation))


@pytest.mark.parametrize(
    ("dataset", "binarization", "likelihood", "epochs", "best_epoch", "expected"),
    [
        ("mnist", "dynamic", "bernoulli", 50, None, "MNIST, dynamic binarization, 50 epochs"),
        ("fashion_mnist", "static", "bernoulli", 50, 50, "FashionMNIST, static binarization, 50 epochs"),
        ("kmnist", "threshold", "bernoulli", 50, 43, "KMNIST, threshold binarization, 50 epochs (best: 43)"),
        (
            "digits",
            "none",
            "relaxed_bernoulli",
            1,
            None,
            "Digits (8 x 8), grayscale (relaxed Bernoulli, not a likelihood), 1 epoch",
        ),
        ("mnist", "none", "discretized_logistic", 2, 2, "MNIST, grayscale (discretized logistic), 2 epochs"),
    ],
)
def test_description_says_data_pixels_and_epochs(dataset, binarization, likelihood, epochs, best_epoch, expected):
    metadata = {"dataset": dataset, "binarization": binarization, "epochs": epochs, "best_epoch": best_epoch}
    assert describe(metadata, likelihood) == expected
