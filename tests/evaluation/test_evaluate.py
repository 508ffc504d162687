import math

import numpy as np
import pytest
import torch

from tests.conftest import as_split
from vae.evaluation import latent_space as latent
from vae.evaluation import likelihood, reconstruction
from vae.evaluation.evaluate import Findings, arrays, confusion, errors_by_class, examine, metrics, ranked_kl
from vae.evaluation.uncertainty import Estimate
from vae.seeds import derive

pytestmark = pytest.mark.usefixtures("lean")


def made_up(error_rate):
    """Findings of four images of two classes, and a class between them that has no image."""
    nll, mse = torch.tensor([[80.0, 90.0, 100.0, 110.0], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    return Findings(
        labels=torch.tensor([0, 2, 0, 2]),
        scores=likelihood.Scores(-nll, -nll - 1, torch.full((4,), 3.0), nll - 20, torch.full((4,), 25.0)),
        training_elbo=torch.tensor([-95.0], dtype=torch.float64),
        errors=reconstruction.Errors(mse, 1 - mse, error_rate),
        means=torch.zeros(4, 3),
        kl_per_dimension=torch.tensor([0.5, 2.0, 0.00004]),
        prior_mmd=Estimate(0.01, 0.002),
        classified=latent.Classified(*(Estimate(share, 0.1) for share in (0.9, 0.8, 0.5, 0.6)), np.array([0, 2, 1, 0])),
    )


@pytest.fixture
def binary():
    """Of black and white images."""
    return made_up(torch.tensor([0.0, 0.1, 0.2, 0.3]))


@pytest.fixture
def gray():
    """Of grayscale images."""
    return made_up(None)


def test_errors_by_class_are_means_over_the_classs_images(binary):
    common = {"images": 2}
    assert errors_by_class(binary, ["cat", "dog", "bird"]) == [
        {"class": "cat", **common, "nll": "90.0000", "elbo": "-95.0000", "reconstruction_nll": "70.0000",
         "mse": "0.2000", "ssim": "0.8000", "error_rate": "0.1000"},
        {"class": "bird", **common, "nll": "100.0000", "elbo": "-105.0000", "reconstruction_nll": "80.0000",
         "mse": "0.3000", "ssim": "0.7000", "error_rate": "0.2000"},
    ]  # fmt: skip


def test_gray_pixels_leave_the_error_rate_empty_and_out_of_the_arrays(binary, gray):
    with_rate, without = (errors_by_class(judged, ["cat", "dog", "bird"]) for judged in (binary, gray))
    assert [row["error_rate"] for row in without] == ["", ""]
    columns = ["class", "images", "nll", "elbo", "reconstruction_nll", "mse", "ssim", "error_rate"]
    assert [list(row) for row in with_rate + without] == [columns] * 4
    assert set(arrays(binary)) - set(arrays(gray)) == {"error_rate"}


def test_dimensions_are_ranked_by_their_kl(binary):
    assert ranked_kl(binary) == [
        {"rank": 1, "dimension": 1, "kl": "2.0000"},
        {"rank": 2, "dimension": 0, "kl": "0.5000"},
        {"rank": 3, "dimension": 2, "kl": "0.0000"},
    ]


def test_confusion_names_the_class_and_the_guess_of_each_image(binary):
    pairs = [("cat", "cat"), ("bird", "bird"), ("cat", "dog"), ("bird", "cat")]
    expected = [{"actual": actual, "predicted": predicted} for actual, predicted in pairs]
    assert confusion(binary, ["cat", "dog", "bird"]) == expected


def test_arrays_hold_what_is_known_of_each_image(binary):
    made = arrays(binary)
    assert {name: (values.dtype.name, values.shape) for name, values in made.items()} == {
        "mean": ("float32", (4, 3)),
        "labels": ("int64", (4,)),
        **dict.fromkeys(("elbo", "nll", "reconstruction_nll", "kl", "mse", "ssim", "error_rate"), ("float32", (4,))),
        "predicted": ("int64", (4,)),
        "kl_per_dimension": ("float32", (3,)),
    }
    np.testing.assert_array_equal(made["nll"], [80, 90, 100, 110])
    np.testing.assert_array_equal(made["elbo"], -made["reconstruction_nll"] - made["kl"])


def test_metrics_are_those_of_likelihood_reconstruction_and_latent_space(binary):
    values = metrics(binary, 64)
    expected = {"test_nll": 95, "elbo_gap": 5, "nll_gain_last_half": 1, "importance_ess": 3, "reconstruction_mse": 0.25}
    expected |= {"bits_per_dim": 95 / 64 / math.log(2), "prior_mmd": 0.01, "probe_accuracy": 0.9, "active_units": 0}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    # All but the number of active units have an error.
    assert len(values) == 2 * (8 + 3 + 5) + 1
    assert (values["test_nll_stderr"], values["kl_stderr"]) == pytest.approx((np.std([8, 9, 10, 11], ddof=1) * 5, 0))


@pytest.mark.parametrize("binary", [True, False])
def test_an_examination_measures_the_test_images_and_learns_from_the_training_images(
    make_model, make_settings, digits, binary
):
    images = (digits > 127).to(torch.uint8) * 255 if binary else digits
    labels = torch.arange(1797) % 3
    test, training = (as_split(images[part], labels[part]) for part in (slice(40), slice(100, 180)))
    settings = make_settings(evaluate={"importance_samples": 6, "seed": 3}).evaluate
    model = make_model(spread=2)
    likelihood_seed, training_seed, kl_seed, mmd_seed, cluster_seed = (
        derive(3, f"evaluate.{purpose}")
        for purpose in ("likelihood", "training_elbo", "kl_per_dimension", "prior_mmd", "clusters")
    )
    judged = examine(model, test, training, binary, settings)

    assert judged.training_elbo.shape == (80,)
    assert torch.equal(judged.training_elbo, likelihood.score(model, training, 10, training_seed).elbo)
    assert torch.equal(judged.scores.log_likelihood, likelihood.score(model, test, 6, likelihood_seed).log_likelihood)
    known = latent.represent(model, training), training.labels, latent.represent(model, test), test.labels
    np.testing.assert_array_equal(judged.classified.predicted, latent.classify(*known, cluster_seed).predicted)
    assert torch.equal(judged.means, known[2])
    assert torch.equal(judged.errors.mse, reconstruction.measure(model, test, binary).mse)
    assert (judged.errors.error_rate is not None) == binary
    assert torch.equal(judged.kl_per_dimension, latent.kl_per_dimension(model, test, kl_seed))
    assert judged.prior_mmd == latent.prior_mmd(model, test, mmd_seed)
    assert all(math.isfinite(value) for value in metrics(judged, 64).values())
    assert all(np.isfinite(values).all() for values in arrays(judged).values())


def test_the_same_settings_give_the_same_bytes(make_model, make_settings, digits):
    split = as_split(digits[:60], torch.arange(60) % 10)
    settings = make_settings(evaluate={"importance_samples": 3}).evaluate
    first, again = (arrays(examine(make_model(), split, split, False, settings)) for _ in range(2))
    assert {name: values.tobytes() for name, values in first.items()} == {
        name: values.tobytes() for name, values in again.items()
    }
