"""Binarization, and splits as a whole and in parts."""

import numpy as np
import pytest
import torch

from tests.data.conftest import DRAWN, generator, parts
from vae.data.images import Split, binarize


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


@pytest.mark.parametrize("how", ["dynamic", "threshold"])
def test_images_drawn_in_parts_are_those_drawn_at_once(monkeypatch, how):
    images = torch.randint(256, (23, 1, 5, 3), dtype=torch.uint8, generator=generator(1))
    at_once = binarize(images, how, generator())
    monkeypatch.setattr("vae.data.images._CHUNK", 7)
    assert torch.equal(binarize(images, how, generator()), at_once)


def test_threshold_takes_pixels_above_one_half_for_1():
    images = torch.arange(256, dtype=torch.uint8)
    expected = np.where(np.arange(256) > 127.5, 255, 0)
    np.testing.assert_array_equal(binarize(images, "threshold", generator()), expected)


def test_none_leaves_images_unchanged():
    images = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(binarize(images, "none", generator()), images)


def test_a_part_of_a_split_keeps_images_labels_and_originals_together(some):
    for chosen in (slice(2, 5), torch.tensor([3, 0]), np.array([6])):
        assert all(map(torch.equal, parts(some[chosen]), [part[chosen] for part in parts(some)]))
    assert len(some.first(3)) == 3
    assert len(some.first(100)) == len(some) == 7
    assert Split(some.images, some.labels)[:2].originals is None


@pytest.mark.parametrize(("size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_batches_are_the_split_in_order(some, size, sizes):
    batches = list(some.batches(size))
    assert [len(batch) for batch in batches] == sizes
    joined = [torch.cat(column) for column in zip(*map(parts, batches), strict=True)]
    assert all(map(torch.equal, joined, parts(some)))


def test_a_split_moves_as_a_whole(some):
    moved = some.to("meta")
    assert [part.device.type for part in parts(moved)] == ["meta"] * 3
    assert Split(some.images, some.labels).to("cpu").originals is None
