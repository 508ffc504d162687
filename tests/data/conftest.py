"""What the tests of images and splits share."""

import pytest
import torch

from vae.data.images import Split

DRAWN = ["dynamic", "static"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def some():
    """Seven images of two channels, with labels and originals of their own."""
    images = torch.arange(7 * 2 * 2 * 3, dtype=torch.uint8).view(7, 2, 2, 3)
    return Split(images, torch.arange(7), originals=255 - images)


def parts(split):
    return [split.images, split.labels, split.originals]
