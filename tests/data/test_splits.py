import numpy as np
import pytest
import torch

from tests.data.conftest import DRAWN
from vae.data.images import Split
from vae.data.splits import make_splits, read_split, write_split
from vae.errors import InputError
from vae.files import read_tensors, write_tensors

BINARIZATIONS = ["dynamic", "static", "threshold", "none"]


def make_raw(train=60, test=20):
    """Raw sets of random 8x8 images; each set's first images are the same however many there are."""
    sets = {"train": (np.random.default_rng(1), train), "test": (np.random.default_rng(2), test)}
    return {
        name: (random.integers(0, 256, (size, 1, 8, 8), dtype=np.uint8), np.arange(size, dtype=np.uint8) % 10)
        for name, (random, size) in sets.items()
    }


@pytest.fixture
def split(make_settings):
    """Give a function: the splits of `raw` under some settings of the section `prepare`."""

    def make(raw, binarization="dynamic", **keys):
        prepare = {"validation_size": 10, "binarization": binarization} | keys
        # Grayscale images go with other likelihoods than binary ones.
        likelihood = "relaxed_bernoulli" if binarization == "none" else "bernoulli"
        return make_splits(raw, make_settings(prepare=prepare, model={"likelihood": likelihood}).prepare)

    return make


def is_binary(images):
    return bool(((images == 0) | (images == 255)).all())


def test_the_last_training_images_validate(split):
    raw = make_raw(60)
    splits = split(raw, binarization="none", validation_size=10)
    images, labels = raw["train"]
    np.testing.assert_array_equal(splits["train"].images, images[:50])
    np.testing.assert_array_equal(splits["train"].labels, labels[:50])
    np.testing.assert_array_equal(splits["validation"].images, images[50:])
    np.testing.assert_array_equal(splits["validation"].labels, labels[50:])


def test_validation_size_0_makes_no_validation_split(split):
    splits = split(make_raw(60), binarization="none", validation_size=0)
    assert set(splits) == {"train", "test"}
    assert len(splits["train"]) == 60


def test_ten_images_are_enough_to_train_on(split):
    assert len(split(make_raw(60), validation_size=50)["train"]) == 10


@pytest.mark.fault
@pytest.mark.parametrize("size", [51, 59, 60, 61])
def test_a_validation_split_that_leaves_too_little_to_train_on_is_refused(split, size):
    with pytest.raises(InputError, match=rf"prepare\.validation_size: got {size}, allowed: at most 50"):
        split(make_raw(60), validation_size=size)


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_images_stay_bytes_and_labels_become_integers(split, how):
    for part in split(make_raw(), binarization=how).values():
        assert part.images.dtype == torch.uint8
        assert part.images.shape[1:] == (1, 8, 8)
        assert part.labels.dtype == torch.int64
        assert len(part.labels) == len(part.images)


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_training_images_stay_gray_only_where_each_mini_batch_draws_or_nobody_does(split, how):
    raw = make_raw()
    images = split(raw, binarization=how)["train"].images
    if how in ("dynamic", "none"):
        np.testing.assert_array_equal(images, raw["train"][0][:50])
    else:
        assert is_binary(images)


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_held_out_images_are_binary_and_keep_their_originals(split, how):
    raw = make_raw()
    splits = split(raw, binarization=how)
    assert splits["train"].originals is None
    for name, originals in {"test": raw["test"][0], "validation": raw["train"][0][50:]}.items():
        assert is_binary(splits[name].images) == (how != "none")
        np.testing.assert_array_equal(splits[name].originals, originals)


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_the_raw_images_are_not_written_to(split, how):
    raw = make_raw()
    split(raw, binarization=how)
    for name, (images, labels) in make_raw().items():
        np.testing.assert_array_equal(raw[name][0], images)
        np.testing.assert_array_equal(raw[name][1], labels)


@pytest.mark.parametrize("how", DRAWN)
def test_the_test_images_do_not_depend_on_the_other_splits(split, how):
    expected = split(make_raw(train=60), binarization=how, validation_size=10)["test"].images
    for train, validation_size in [(60, 0), (60, 30), (200, 10)]:
        splits = split(make_raw(train=train), binarization=how, validation_size=validation_size)
        assert torch.equal(splits["test"].images, expected)


@pytest.mark.parametrize("how", DRAWN)
def test_the_validation_draw_does_not_depend_on_the_number_of_training_images(split, how):
    test = {"test": make_raw()["test"]}
    draws = []
    for size in (60, 200):
        gray = np.full((size, 1, 8, 8), 128, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
        draws.append(split(test | {"train": gray}, binarization=how)["validation"].images)
    assert torch.equal(*draws)


@pytest.mark.parametrize("how", DRAWN)
def test_the_seed_fixes_every_draw(split, how):
    first, again, other = (split(make_raw(), binarization=how, seed=seed) for seed in (3, 3, 4))
    for name in first:
        assert torch.equal(first[name].images, again[name].images)
        drawn = how == "static" or name != "train"
        assert torch.equal(first[name].images, other[name].images) != drawn


def test_splits_are_drawn_independently_of_each_other(split):
    gray = np.full((10, 1, 8, 8), 128, dtype=np.uint8), np.zeros(10, dtype=np.uint8)
    twice_gray = tuple(np.concatenate([part, part]) for part in gray)
    splits = split({"train": twice_gray, "test": gray}, binarization="static", validation_size=10)
    test, validation, train = (splits[name].images for name in ("test", "validation", "train"))
    assert not torch.equal(test, validation)
    assert not torch.equal(test, train)
    assert not torch.equal(validation, train)


# --- A split and its file


METADATA = {"classes": list("abcdefg"), "binarization": "none", "dataset": "digits"}


@pytest.mark.parametrize("originals", [True, False])
def test_a_split_comes_back_from_its_file(some, tmp_path, originals):
    written = some if originals else Split(some.images, some.labels)
    write_split(tmp_path / "split", written, METADATA)
    read, metadata = read_split(tmp_path / "split")
    assert metadata == METADATA | {"image_shape": [2, 2, 3]}
    assert torch.equal(read.images, some.images)
    assert torch.equal(read.labels, some.labels)
    assert torch.equal(read.originals, some.originals) if originals else read.originals is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors, _: tensors.pop("images"), "it holds labels, originals, expected images, labels"),
        (lambda tensors, _: tensors.update(more=torch.zeros(1)), "it holds images, labels, more, originals"),
        (lambda tensors, _: tensors.update(images=tensors["images"].float()), "images: torch.float32 of shape"),
        (lambda tensors, _: tensors.update(images=tensors["images"][:, 0]), r"shape (7, 2, 3), expected uint8 of"),
        (lambda tensors, _: tensors.update(images=tensors["images"][:0]), r"shape (0, 2, 2, 3)"),
        (lambda tensors, _: tensors.update(labels=tensors["labels"].int()), "labels: torch.int32 of shape"),
        (lambda tensors, _: tensors.update(labels=torch.arange(6)), r"of shape (6,), expected int64 of shape (7,)"),
        (lambda tensors, _: tensors.update(labels=torch.arange(7) + 1), "labels from 1 to 7, expected from 0 to 6"),
        (lambda tensors, _: tensors.update(labels=torch.arange(7) - 1), "labels from -1 to 5, expected from 0 to 6"),
        (lambda tensors, _: tensors.update(originals=torch.zeros(7, 2, 2, 2, dtype=torch.uint8)), "originals: "),
        (lambda tensors, _: tensors.update(originals=tensors["originals"].float()), "originals: torch.float32"),
        (lambda _, metadata: metadata.pop("classes"), "its metadata does not name the classes"),
        (lambda _, metadata: metadata.update(classes=7), "its metadata does not name the classes"),
        (lambda _, metadata: metadata.update(classes=[]), "its metadata does not name the classes"),
        (lambda _, metadata: metadata.pop("dataset"), "not name a data set and a binarization"),
        (lambda _, metadata: metadata.update(binarization="static"), "gray pixels, expected black and white ones"),
        (lambda _, metadata: metadata.update(binarization="dynamic"), "gray pixels, expected black and white ones"),
        (lambda _, metadata: metadata.pop("binarization"), "not name a data set and a binarization"),
    ],
)
def test_a_file_of_another_kind_is_no_split(some, tmp_path, change, reason):
    path = tmp_path / "some.safetensors"
    write_split(path, some, METADATA)
    tensors, metadata = read_tensors(path)
    change(tensors, metadata)
    write_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match=r"some\.safetensors: not a split that this code can read \(") as caught:
        read_split(path)
    assert reason in str(caught.value)


def test_a_gray_pixel_is_seen_wherever_it_is(some, tmp_path, monkeypatch):
    monkeypatch.setattr("vae.data.splits._CHUNK", 3)  # of 7 images
    path, metadata = tmp_path / "some.safetensors", METADATA | {"binarization": "static"}
    images = torch.zeros_like(some.images)
    write_split(path, Split(images, some.labels), metadata)
    assert torch.equal(read_split(path)[0].images, images)
    images[-1, -1, -1, -1] = 1
    write_split(path, Split(images, some.labels), metadata)
    with pytest.raises(InputError, match="gray pixels"):
        read_split(path)


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(InputError, match="absent: not found"):
        read_split(tmp_path / "absent")
