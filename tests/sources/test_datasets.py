import gzip

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.sources.published import ARRAYS, FILES, NAMES, idx, write_files
from vae.errors import DamagedFile, MissingFile, UnfitFile
from vae.sources import datasets, mirrors


def test_read_gives_images_and_labels(tmp_path):
    data = datasets.read("mnist", write_files(tmp_path))
    assert list(data) == ["train", "test"]
    # The images have an axis of channels, of which MNIST has one.
    found = [data["train"][1], data["test"][1], data["train"][0][:, 0], data["test"][0][:, 0]]
    for array, expected in zip(found, ARRAYS, strict=True):
        assert array.dtype == np.uint8 and array.flags.writeable
        np.testing.assert_array_equal(array, expected)


WHOLE = idx(ARRAYS[2])
DAMAGE = {
    "no gzip": (b"plain", "Not a gzipped file"),
    "cut gzip": (FILES[NAMES[2]][:-12], "ended before"),
    "flipped bits": (FILES[NAMES[2]][:20] + b"\xff\xff\xff\xff" + FILES[NAMES[2]][24:], ""),
    "empty": (b"", "not an IDX file"),
    "labels": (FILES[NAMES[0]], "not an IDX file of unsigned bytes in 3 dimensions"),
    "signed bytes": (gzip.compress(b"\0\0\x09" + WHOLE[3:]), "not an IDX file"),
    "cut header": (gzip.compress(WHOLE[:15]), "not an IDX file"),
    "cut values": (gzip.compress(WHOLE[:-1]), r"71 values, but the header says \[12, 3, 2\]"),
    "long": (gzip.compress(WHOLE + b"\0"), "73 values"),
    "other count": (FILES[NAMES[3]], "12 labels for 10 images"),
}


@pytest.mark.parametrize(("content", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_reported_by_name(content, reason, tmp_path):
    write_files(tmp_path, {**FILES, NAMES[2]: content})
    with pytest.raises(DamagedFile, match=rf"(?s)train-.*-ubyte\.gz: damaged \(.*{reason}.*\)"):
        datasets.read("mnist", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_reported_by_name(name, tmp_path):
    (write_files(tmp_path) / name).unlink()
    with pytest.raises(MissingFile, match=rf"{name}: not found"):
        datasets.read("mnist", tmp_path)


def test_digits_are_those_of_scikit_learn(tmp_path):
    assert mirrors.fetch("digits", ["http://127.0.0.1/"], tmp_path) == ["digits.npz"]
    data = datasets.read("digits", tmp_path)
    original = load_digits()
    assert {key: array.shape for key, (array, _) in data.items()} == {
        "train": (1437, 1, 8, 8),
        "test": (360, 1, 8, 8),
    }
    assert {array.dtype for pair in data.values() for array in pair} == {np.dtype(np.uint8)}
    images = np.concatenate([data["train"][0], data["test"][0]])
    labels = np.concatenate([data["train"][1], data["test"][1]])
    np.testing.assert_array_equal(labels, original.target)
    # Sixteen steps of 15.9375: rounding to whole numbers moves a value by half at most.
    np.testing.assert_allclose(images[:, 0], original.images * 255 / 16, atol=0.5)
    assert images.min() == 0 and images.max() == 255


def test_missing_or_damaged_digits_are_reported_by_name(tmp_path):
    with pytest.raises(MissingFile, match=r"digits\.npz: not found"):
        datasets.read("digits", tmp_path)
    np.savez(tmp_path / "digits.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.zeros(3, np.uint8))
    with pytest.raises(DamagedFile, match=r"digits\.npz: damaged"):
        datasets.read("digits", tmp_path)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("mnist", "0", "9"), ("digits", "0", "9"), ("fashion_mnist", "T-shirt/top", "Ankle boot"), ("kmnist", "o", "wo")],
)
def test_class_names(name, first, last):
    names = datasets.class_names(name)
    assert len(set(names)) == 10 and (names[0], names[-1]) == (first, last)


@pytest.mark.fault
@pytest.mark.parametrize("key", ["images", "labels"])
def test_digits_that_were_changed_are_damaged(tmp_path, key):
    mirrors.fetch("digits", [], tmp_path)
    with np.load(tmp_path / "digits.npz") as file:
        arrays = dict(file)
    arrays[key][-1] += 1
    np.savez(tmp_path / "digits.npz", **arrays)
    with pytest.raises(DamagedFile, match="not scikit-learn's 1797 digits"):
        datasets.read("digits", tmp_path)


UNFIT = {
    "nine images": ((idx(ARRAYS[2][:9]), idx(ARRAYS[0][:9])), "train-images", r"\(9, 3, 2\), expected at least 10"),
    "no pixels": ((idx(ARRAYS[2][:, :0]), idx(ARRAYS[0])), "train-images", r"\(12, 0, 2\), expected at least 10"),
    "no images": ((idx(ARRAYS[2][:0]), idx(ARRAYS[0][:0])), "train-images", r"\(0, 3, 2\), expected at least 10"),
    "a label of 10": ((idx(ARRAYS[2]), idx(ARRAYS[0] + 1)), "train-labels", "labels up to 10, expected from 0 to 9"),
    "another size": (
        (idx(ARRAYS[2][:, :2]), idx(ARRAYS[0])),
        "t10k-images",
        "3 x 2 pixels, but training images have 2 x 2",
    ),
}


@pytest.mark.parametrize(("contents", "name", "reason"), UNFIT.values(), ids=UNFIT)
def test_intact_files_that_do_not_fit_are_told_by_their_names(contents, name, reason, tmp_path):
    assert ARRAYS[0].max() == 9
    write_files(tmp_path, {**FILES, **dict(zip((NAMES[2], NAMES[0]), map(gzip.compress, contents), strict=True))})
    with pytest.raises(UnfitFile, match=rf"{name}-idx\d-ubyte\.gz: .*{reason}"):
        datasets.read("mnist", tmp_path)
