import numpy as np
import pytest
import torch

from vae.errors import InputError
from vae.preparation import binarize, make_splits

BINARIZATIONS = ["dynamic", "static", "threshold", "none"]
DRAWN = ["dynamic", "static"]


def make_raw(train=60, test=20):
    """Raw sets of random 8x8 images; each set's first images are the same however many there are."""
    sets = {"train": (np.random.default_rng(1), train), "test": (np.random.default_rng(2), test)}
    return {
        name: (random.integers(0, 256, (size, 8, 8), dtype=np.uint8), np.arange(size, dtype=np.uint8) % 10)
        for name, (random, size) in sets.items()
    }


@pytest.fixture
def split(make_settings):
    """Give a function: the splits of `raw` under some settings of the section `prepare`."""

    def make(raw, binarization="dynamic", **keys):
        prepare = {"validation_size": 10, "binarization": binarization} | keys
        # Grey-scale images go with other likelihoods than binary ones.
        likelihood = "relaxed_bernoulli" if binarization == "none" else "bernoulli"
        return make_splits(raw, make_settings(prepare=prepare, model={"likelihood": likelihood}).prepare)

    return make


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def is_binary(images):
    return bool(((images == 0) | (images == 255)).all())


def test_the_last_training_images_validate(split):
    raw = make_raw(60)
    splits = split(raw, binarization="none", validation_size=10)
    images, labels = raw["train"]
    np.testing.assert_array_equal(splits["train"]["images"], images[:50])
    np.testing.assert_array_equal(splits["train"]["labels"], labels[:50])
    np.testing.assert_array_equal(splits["validation"]["images"], images[50:])
    np.testing.assert_array_equal(splits["validation"]["labels"], labels[50:])


def test_validation_size_0_makes_no_validation_split(split):
    splits = split(make_raw(60), binarization="none", validation_size=0)
    assert set(splits) == {"train", "test"}
    assert len(splits["train"]["images"]) == 60


def test_one_image_is_enough_to_train_on(split):
    assert len(split(make_raw(60), validation_size=59)["train"]["images"]) == 1


@pytest.mark.parametrize("size", [60, 61])
def test_a_validation_split_that_leaves_nothing_to_train_on_is_refused(split, size):
    with pytest.raises(InputError, match=rf"prepare\.validation_size: got {size}, allowed: at most 59"):
        split(make_raw(60), validation_size=size)


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_images_stay_bytes_and_labels_become_integers(split, how):
    for part in split(make_raw(), binarization=how).values():
        assert part["images"].dtype == torch.uint8
        assert part["images"].shape[1:] == (8, 8)
        assert part["labels"].dtype == torch.int64
        assert len(part["labels"]) == len(part["images"])


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_training_images_stay_grey_only_where_each_mini_batch_draws_or_nobody_does(split, how):
    raw = make_raw()
    images = split(raw, binarization=how)["train"]["images"]
    if how in ("dynamic", "none"):
        np.testing.assert_array_equal(images, raw["train"][0][:50])
    else:
        assert is_binary(images)


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_held_out_images_are_binary_and_keep_their_originals(split, how):
    raw = make_raw()
    splits = split(raw, binarization=how)
    assert "originals" not in splits["train"]
    for name, originals in {"test": raw["test"][0], "validation": raw["train"][0][50:]}.items():
        assert is_binary(splits[name]["images"]) == (how != "none")
        np.testing.assert_array_equal(splits[name]["originals"], originals)


@pytest.mark.parametrize("how", BINARIZATIONS)
def test_the_raw_images_are_not_written_to(split, how):
    raw = make_raw()
    split(raw, binarization=how)
    for name, (images, labels) in make_raw().items():
        np.testing.assert_array_equal(raw[name][0], images)
        np.testing.assert_array_equal(raw[name][1], labels)


@pytest.mark.parametrize("how", DRAWN)
def test_pixels_are_drawn_with_their_intensity_as_the_probability(how):
    draws = 4000
    images = torch.arange(256, dtype=torch.uint8).expand(draws, 256)
    shares = (binarize(images, how, generator()) == 255).double().mean(dim=0).numpy()
    intensities = np.arange(256) / 255
    # Five standard errors of a share: one of 254 shares strays further by chance once in 7000 seeds.
    tolerance = 5 * np.sqrt(intensities * (1 - intensities) / draws)
    assert (np.abs(shares - intensities) <= tolerance).all()


@pytest.mark.parametrize("how", ["dynamic", "static", "threshold"])
def test_black_and_white_pixels_are_certain(how):
    images = torch.tensor([0, 255], dtype=torch.uint8).expand(100_000, 2)
    assert torch.equal(binarize(images, how, generator()), images)


def test_black_pixels_stay_black_when_the_draw_is_exactly_0(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    images = torch.zeros(2, 8, 8, dtype=torch.uint8)
    assert torch.equal(binarize(images, "dynamic", generator()), images)


def test_threshold_takes_pixels_above_one_half_for_1():
    images = torch.arange(256, dtype=torch.uint8)
    expected = np.where(np.arange(256) > 127.5, 255, 0)
    np.testing.assert_array_equal(binarize(images, "threshold", generator()), expected)


def test_none_leaves_images_unchanged():
    images = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(binarize(images, "none", generator()), images)


@pytest.mark.parametrize("how", DRAWN)
def test_the_test_images_do_not_depend_on_the_other_splits(split, how):
    expected = split(make_raw(train=60), binarization=how, validation_size=10)["test"]["images"]
    for train, validation_size in [(60, 0), (60, 30), (200, 10)]:
        splits = split(make_raw(train=train), binarization=how, validation_size=validation_size)
        assert torch.equal(splits["test"]["images"], expected)


@pytest.mark.parametrize("how", DRAWN)
def test_the_validation_draw_does_not_depend_on_the_number_of_training_images(split, how):
    test = {"test": make_raw()["test"]}
    draws = []
    for size in (60, 200):
        grey = np.full((size, 8, 8), 128, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
        draws.append(split(test | {"train": grey}, binarization=how)["validation"]["images"])
    assert torch.equal(*draws)


@pytest.mark.parametrize("how", DRAWN)
def test_the_seed_fixes_every_draw(split, how):
    first, again, other = (split(make_raw(), binarization=how, seed=seed) for seed in (3, 3, 4))
    for name in first:
        assert torch.equal(first[name]["images"], again[name]["images"])
        drawn = how == "static" or name != "train"
        assert torch.equal(first[name]["images"], other[name]["images"]) != drawn


def test_splits_are_drawn_independently_of_each_other(split):
    grey = np.full((10, 8, 8), 128, dtype=np.uint8), np.zeros(10, dtype=np.uint8)
    twice_grey = tuple(np.concatenate([part, part]) for part in grey)
    splits = split({"train": twice_grey, "test": grey}, binarization="static", validation_size=10)
    test, validation, train = (splits[name]["images"] for name in ("test", "validation", "train"))
    assert not torch.equal(test, validation)
    assert not torch.equal(test, train)
    assert not torch.equal(validation, train)
