"""What a file between stages must hold, one mistake after the other; tests/stages has the stages' own messages."""

import numpy as np
import pytest

from vae import artifacts
from vae.errors import DamagedFile, MissingFile, UnfitFile, WorkError
from vae.files import write_arrays

CONTENTS = {
    "mean": "float32 images latent",
    "labels": "int64 images < classes",
    "share": "float32 images <= 1",
}
SIZES = {"images": 4, "classes": 3}


def fitting():
    return {
        "mean": np.zeros((4, 2), np.float32),
        "labels": np.array([0, 1, 2, 2]),
        "share": np.array([0, 0.5, 1, 1], np.float32),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.npz"


def reason(path, **changed):
    """Why a file with these arrays in place of the fitting ones is refused."""
    write_arrays(path, {name: array for name, array in (fitting() | changed).items() if array is not None})
    with pytest.raises(UnfitFile) as caught:
        artifacts.read(path, CONTENTS, **SIZES)
    return str(caught.value).removeprefix(f"{path}: ")


def test_what_fits_is_read_as_it_is(path):
    write_arrays(path, fitting() | {"more": np.arange(3)})
    read = artifacts.read(path, CONTENTS, **SIZES)
    for name, array in fitting().items():
        np.testing.assert_array_equal(read[name], array, strict=True)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"mean": None}, "it holds labels, share, expected mean, labels, share"),
        (
            {"mean": np.zeros((4, 2))},
            "mean: float64 of shape (4, 2), expected float32 of shape (4, 2)",
        ),
        (
            {"mean": np.zeros(4, np.float32)},
            "mean: float32 of shape (4,), expected float32 of shape (4, latent)",
        ),
        (
            {"mean": np.zeros((5, 2), np.float32)},
            "mean: float32 of shape (5, 2), expected float32 of shape (4, 2)",
        ),
        ({"mean": np.zeros((4, 0), np.float32)}, "mean: no values"),
        ({"mean": np.full((4, 2), np.nan, np.float32)}, "mean: values that are not finite"),
        ({"labels": np.array([0, 1, 2, 3])}, "labels: values from 0 to 3, expected from 0 to 2"),
        ({"labels": np.array([-1, 1, 2, 2])}, "labels: values from -1 to 2, expected from 0 to 2"),
        ({"share": np.array([0, 0, 0, 1.5], np.float32)}, "share: values from 0 to 1.5, expected from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_named_with_what_was_expected(path, changed, expected):
    assert reason(path, **changed) == expected


def test_a_size_that_nobody_gave_is_that_of_the_first_array(path):
    write_arrays(path, fitting() | {"share": np.zeros(3, np.float32)})
    with pytest.raises(UnfitFile, match=r"share: float32 of shape \(3,\), expected float32 of shape \(4\)"):
        artifacts.read(path, CONTENTS, classes=3)


def test_a_file_that_is_missing_or_damaged_says_so(path):
    with pytest.raises(MissingFile):
        artifacts.read(path, CONTENTS, **SIZES)
    path.write_bytes(b"no archive")
    with pytest.raises(DamagedFile):
        artifacts.read(path, CONTENTS, **SIZES)


def test_latents_of_other_images_are_refused(path):
    labels = np.array([0, 1, 2])
    values = {
        name: np.zeros([3] + [2] * text.count("latent"), np.float32) for name, text in artifacts.LATENTS.items()
    } | {"labels": labels, "predicted": labels, "kl_per_dimension": np.zeros(2, np.float32)}
    write_arrays(path, values)
    assert artifacts.read_latents(path, labels, classes=3, latent=2).keys() == values.keys()
    with pytest.raises(UnfitFile, match="its labels are not those of the test images"):
        artifacts.read_latents(path, labels[::-1], classes=3, latent=2)


@pytest.mark.parametrize("key", artifacts.SAME)
def test_a_file_of_other_data_is_refused_by_the_key_that_differs(key):
    prepared = {"dataset": "digits", "binarization": "dynamic", "classes": ["a", "b"], "image_shape": [1, 8, 8]}
    artifacts.check_same_data("model", prepared | {"epochs": 3}, prepared)
    for found in (prepared | {key: "another"}, {name: value for name, value in prepared.items() if name != key}):
        with pytest.raises(UnfitFile, match=f"model: its {key} is (another|None), that of the prepared images "):
            artifacts.check_same_data("model", found, prepared)


@pytest.mark.parametrize("value", [np.inf, np.float32("nan"), np.array([1, -np.inf])])
def test_a_value_that_is_not_finite_is_named(value):
    artifacts.check_finite({"kl": 1.0, "mse": np.ones(3)})
    with pytest.raises(WorkError, match="elbo is not finite, so nothing was written"):
        artifacts.check_finite({"kl": 1.0, "elbo": value})
