import itertools

import numpy as np
import pytest
import torch

from tests.drawing import CAPTION, cut, enlarge, make_images, make_inputs, read_canvas, read_ticks
from vae.pictures.layout import GUTTER
from vae.pictures.reconstructions import (
    error_by_class_figure,
    reconstruct,
    reconstructions_by_epoch_figure,
    reconstructions_extremes_figure,
    reconstructions_figure,
)


@pytest.mark.parametrize(("classes", "examples"), [(2, 6), (3, 6), (7, 5), (10, 6)])
@pytest.mark.parametrize(("side", "size", "channels"), [(28, 28, 1), (8, 24, 1), (8, 24, 3)])
def test_reconstructions_are_labeled_with_their_class_and_kind(classes, examples, side, size, channels):
    originals, inputs, probabilities = make_images(3, classes, examples, side, side, channels=channels)
    names = [f"class {label}" for label in range(classes)]
    axes = reconstructions_figure(originals, inputs, probabilities, names, CAPTION).axes[0]
    canvas = read_canvas(axes.figure).copy()
    rows, columns = read_ticks(axes.yaxis), read_ticks(axes.xaxis)
    assert [name for name, _ in columns] == names

    across = examples * 3 // len(rows)
    kinds = {"original": originals, "model input": inputs, "reconstruction": probabilities}
    for (at, (kind, row)), (label, (_, center)) in itertools.product(enumerate(rows), enumerate(columns)):
        for step in range(across):
            column = center + (step - (across - 1) / 2) * (size + GUTTER)
            image = cut(canvas, row, column, size)
            expected = kinds[kind][label, at // 3 * across + step]
            np.testing.assert_array_equal(image, enlarge(expected, size), err_msg=f"{kind}, class {label}")
            image[:] = 1
    assert (canvas == 1).all(), "something is drawn between the images"


@pytest.mark.parametrize(("side", "size", "channels"), [(28, 56, 1), (8, 56, 1), (8, 56, 3)])
def test_reconstructions_by_epoch_have_a_row_for_each_epoch(side, size, channels):
    originals, inputs = make_images(2, 3, side, side, channels=channels)
    probabilities = make_images(4, 3, side, side, channels=channels)
    figure = reconstructions_by_epoch_figure(originals, inputs, probabilities, [1, 2, 5, 50], "abc", CAPTION)
    rows, columns = read_ticks(figure.axes[0].yaxis), read_ticks(figure.axes[0].xaxis)
    assert [name for name, _ in rows] == ["original", "model input", "epoch 1", "epoch 2", "epoch 5", "epoch 50"]
    assert [name for name, _ in columns] == ["a", "b", "c"]
    expected = [originals, inputs, *probabilities]
    for (at, (_, row)), (label, (_, column)) in itertools.product(enumerate(rows), enumerate(columns)):
        image = cut(read_canvas(figure), row, column, size)
        np.testing.assert_array_equal(image, enlarge(expected[at][label], size))


def test_inputs_that_are_the_originals_are_not_shown_twice():
    images = make_images(3, 4, 8, 8)
    figure = reconstructions_figure(images, images, images**2, "abc", CAPTION)
    assert {name for name, _ in read_ticks(figure.axes[0].yaxis)} == {"original", "reconstruction"}
    figure = reconstructions_by_epoch_figure(images[:, 0], images[:, 0], images[None, :, 1], [7], "abc", CAPTION)
    assert [name for name, _ in read_ticks(figure.axes[0].yaxis)] == ["original", "epoch 7"]


def test_extremes_are_above_their_values():
    originals, inputs, probabilities = make_images(3, 2, 3, 2, 8, 8)
    nll = np.arange(12).reshape(2, 3, 2) * 10.04
    figure = reconstructions_extremes_figure(originals, inputs, probabilities, nll, "abc", CAPTION)
    axes, canvas = figure.axes[0], read_canvas(figure)
    rows = dict(read_ticks(axes.yaxis))
    kinds = {"original": originals, "model input": inputs, "reconstruction": probabilities}
    assert list(rows) == [f"{which}: {kind}" for which in ("best", "worst") for kind in kinds]
    notes = {text.get_text(): text.get_position() for text in axes.texts}
    # From 100 nats on whole numbers, which are as wide as the images are.
    texts = [["0.0", "10.0", "20.1", "30.1", "40.2", "50.2"], ["60.2", "70.3", "80.3", "90.4", "100", "110"]]
    assert list(notes) == [*texts[0], *texts[1]]
    for part, which in enumerate(("best", "worst")):
        for place, text in enumerate(texts[part]):
            column, below = notes[text]
            assert rows[f"{which}: reconstruction"] + 12 <= below < rows[f"{which}: reconstruction"] + 16
            for kind, images in kinds.items():
                shown = cut(canvas, rows[f"{which}: {kind}"], column, 24)
                np.testing.assert_array_equal(shown, enlarge(images[part].reshape(6, 1, 8, 8)[place], 24))


def test_reconstructions_keep_the_shape_of_the_indices(make_model):
    model = make_model()
    images, labels = make_inputs(6)
    found = reconstruct(model, images.reshape(2, 3, 1, 8, 8), labels.reshape(2, 3))
    expected = model.reconstruct(torch.from_numpy(images).float(), torch.from_numpy(labels))
    # Float32: the same operations, in batches of the same size.
    np.testing.assert_array_equal(found.reshape(6, 1, 8, 8), expected.detach())


def test_errors_by_class_are_means_with_their_standard_errors():
    labels = np.array([0, 0, 0, 0, 1])
    nll = np.array([1.0, 2, 3, 4, 7])
    figure = error_by_class_figure({"nll": nll, "mse": nll / 10, "ssim": -nll}, labels, ["Bag", "Coat"], CAPTION)
    for axes, scale in zip(figure.axes, (1, 0.1, -1), strict=True):
        (bars,) = axes.containers
        np.testing.assert_allclose(bars.lines[0].get_xydata(), [[2.5 * scale, 0], [7 * scale, 1]])
        # The variance of 1, 2, 3, 4 is 5/3, that of their mean a fourth of it; a single image has none.
        error = abs(scale) * (5 / 12) ** 0.5
        reached = [segment[:, 0] for segment in bars.lines[2][0].get_segments()]
        np.testing.assert_allclose(reached, [[2.5 * scale - error, 2.5 * scale + error], [7 * scale] * 2])
        assert axes.get_lines()[-1].get_xdata()[0] == pytest.approx(nll.mean() * scale)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Bag", "Coat"]
    low, high = figure.axes[0].get_ylim()
    assert low > high, "the first class stands at the top"
