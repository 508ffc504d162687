"""What the tests of pictures share: small made-up data, and ways to read a figure."""

import io
import itertools

import numpy as np
import pandas as pd
from matplotlib.transforms import Bbox

CAPTION = "FashionMNIST, static binarization, 30 epochs"
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def make_images(*shape, channels=1):
    """Images (*shape[:-2], channels, height, width) with values from 0 to 1."""
    return np.random.default_rng(0).random((*shape[:-2], channels, *shape[-2:]))


def make_inputs(count, side=8):
    """Binary images (count, 1, side, side) and their labels."""
    random = np.random.default_rng(0)
    return (random.random((count, 1, side, side)) > 0.5).astype(float), np.arange(count) % 10


def make_points(classes, count=200):
    random = np.random.default_rng(0)
    labels = np.arange(count) % len(classes)
    x, y = 20 * np.cos(labels) + random.normal(size=count), 20 * np.sin(labels) + random.normal(size=count)
    return pd.DataFrame({"x": x, "y": y, "label": [classes[label] for label in labels]})


def make_history(epochs, splits=("train", "validation")):
    epoch = np.arange(1, epochs + 1)
    columns = {"epoch": epoch}
    for shift, split in enumerate(splits):
        distortion, rate = 70 + 500 / epoch**2 + shift, 25 - 20 / epoch**2 + shift
        columns[f"{split}_elbo"] = -distortion - rate
        columns[f"{split}_reconstruction_nll"] = distortion
        columns[f"{split}_kl"] = rate
    return pd.DataFrame(columns)


def render(figure, dpi=75):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def read_canvas(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def read_ticks(axis):
    return [(label.get_text(), place) for label, place in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)]


def enlarge(image, size):
    """The pixels (channels, height, width) as a canvas shows them, (size, size) or with three colors as a last axis."""
    scale = size // image.shape[1]
    shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    return shown.repeat(scale, axis=0).repeat(scale, axis=1)


def cut(canvas, row, column, size):
    """Take the square centered at `row` and `column`."""
    top, left = round(row - (size - 1) / 2), round(column - (size - 1) / 2)
    return canvas[top : top + size, left : left + size]


def assert_apart(texts):
    for one, other in itertools.combinations(texts, 2):
        common = Bbox.intersection(one.get_window_extent(), other.get_window_extent())
        assert common is None or common.height < 0.01, f"{one.get_text()} and {other.get_text()} overlap"
