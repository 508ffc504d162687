import io
import itertools

import matplotlib.image
import numpy as np
import pytest
from matplotlib import colormaps

from tests.drawing import CAPTION, cut, enlarge, make_images, read_canvas, read_ticks, render
from vae import figures
from vae.figures.layout import GUTTER


@pytest.mark.parametrize(("classes", "examples"), [(2, 6), (3, 6), (7, 5), (10, 6)])
@pytest.mark.parametrize(("side", "size"), [(28, 28), (8, 24)])
def test_reconstructions_stand_under_their_class_and_beside_their_kind(classes, examples, side, size):
    originals, inputs, probabilities = make_images(3, classes, examples, side, side)
    names = [f"class {label}" for label in range(classes)]
    axes = figures.reconstructions(originals, inputs, probabilities, names, CAPTION).axes[0]
    canvas = read_canvas(axes.figure).copy()
    rows, columns = read_ticks(axes.yaxis), read_ticks(axes.xaxis)
    assert [name for name, _ in columns] == names

    across = examples * 3 // len(rows)
    kinds = {"original": originals, "model input": inputs, "reconstruction": probabilities}
    for (at, (kind, row)), (label, (_, centre)) in itertools.product(enumerate(rows), enumerate(columns)):
        for step in range(across):
            column = centre + (step - (across - 1) / 2) * (size + GUTTER)
            image = cut(canvas, row, column, size)
            expected = kinds[kind][label, at // 3 * across + step]
            np.testing.assert_array_equal(image, enlarge(expected, size), err_msg=f"{kind}, class {label}")
            image[:] = 1
    assert (canvas == 1).all(), "something stands between the images"


@pytest.mark.parametrize(("side", "size"), [(28, 56), (8, 56)])
def test_reconstructions_by_epoch_have_a_row_for_each_epoch(side, size):
    originals, inputs = make_images(2, 3, side, side)
    probabilities = make_images(4, 3, side, side)
    figure = figures.reconstructions_by_epoch(originals, inputs, probabilities, [1, 2, 5, 50], "abc", CAPTION)
    rows, columns = read_ticks(figure.axes[0].yaxis), read_ticks(figure.axes[0].xaxis)
    assert [name for name, _ in rows] == ["original", "model input", "epoch 1", "epoch 2", "epoch 5", "epoch 50"]
    assert [name for name, _ in columns] == ["a", "b", "c"]
    expected = [originals, inputs, *probabilities]
    for (at, (_, row)), (label, (_, column)) in itertools.product(enumerate(rows), enumerate(columns)):
        image = cut(read_canvas(figure), row, column, size)
        np.testing.assert_array_equal(image, enlarge(expected[at][label], size))


def test_inputs_that_are_the_originals_are_not_shown_twice():
    images = make_images(3, 4, 8, 8)
    figure = figures.reconstructions(images, images, images**2, "abc", CAPTION)
    assert {name for name, _ in read_ticks(figure.axes[0].yaxis)} == {"original", "reconstruction"}
    figure = figures.reconstructions_by_epoch(images[:, 0], images[:, 0], images[None, :, 1], [7], "abc", CAPTION)
    assert [name for name, _ in read_ticks(figure.axes[0].yaxis)] == ["original", "epoch 7"]


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (20, 1), (21, 2), (100, 5)])
def test_samples_fill_rows_in_order(count, rows):
    images = make_images(count, 28, 28)
    canvas = read_canvas(figures.samples(images, CAPTION)).copy()
    step = 28 + GUTTER
    assert canvas.shape == (rows * step - GUTTER, min(count, 20) * step - GUTTER)
    for position, image in enumerate(images):
        top, left = position // 20 * step, position % 20 * step
        np.testing.assert_array_equal(canvas[top : top + 28, left : left + 28], image)
        canvas[top : top + 28, left : left + 28] = 1
    assert (canvas == 1).all(), "the places that are left over are not white"


def test_image_pixels_are_whole_pixels_of_the_png():
    images = make_images(3, 6, 28, 28)
    figure = figures.reconstructions(images, images > 0.5, images**2, "abc", CAPTION)
    picture = matplotlib.image.imread(io.BytesIO(render(figure, dpi=150)))[:, :, 0]
    canvas = read_canvas(figure)
    area = figure.axes[0].get_position()
    top, left = round((1 - area.y1) * picture.shape[0]), round(area.x0 * picture.shape[1])
    shown = picture[top:, left:][: 2 * canvas.shape[0], : 2 * canvas.shape[1]]
    # The PNG has 256 levels of grey: 1/255 for rounding there and 1/255 for the colour map's.
    np.testing.assert_allclose(shown, canvas.repeat(2, axis=0).repeat(2, axis=1), atol=2 / 255)


def test_extremes_stand_over_their_values():
    originals, inputs, probabilities = make_images(3, 2, 3, 2, 8, 8)
    nll = np.arange(12).reshape(2, 3, 2) * 10.04
    figure = figures.reconstructions_extremes(originals, inputs, probabilities, nll, "abc", CAPTION)
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
                np.testing.assert_array_equal(shown, enlarge(images[part].reshape(6, 8, 8)[place], 24))


@pytest.mark.parametrize(("count", "shown"), [(3, 3), (25, 20), (150, 100)])
def test_samples_stand_over_their_neighbours_the_closest_pairs_first(count, shown):
    drawn, neighbours = make_images(2, count, 8, 8)
    distances = np.random.default_rng(1).permutation(count) / 10
    figure = figures.samples_neighbours(drawn, neighbours, distances, CAPTION)
    rows = [row for _, row in read_ticks(figure.axes[0].yaxis)]
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == [f"{place / 10:.1f}" for place in range(shown)]
    for place, text in enumerate(texts):
        pair = int(np.flatnonzero(distances == place / 10)[0])
        at = 2 * (place // min(count, 20))
        for images, row in ((drawn, rows[at]), (neighbours, rows[at + 1])):
            shown_image = cut(read_canvas(figure), row, text.get_position()[0], 24)
            np.testing.assert_array_equal(shown_image, enlarge(images[pair], 24))


def test_uncertainty_has_one_scale_for_both_parts_beside_their_rows():
    inputs, means = make_images(2, 3, 8, 8)
    latent, noise = make_images(2, 3, 8, 8) / 2
    figure = figures.uncertainty(inputs, means, latent, noise, "abc", CAPTION)
    axes, bar = figure.axes
    canvas = read_canvas(figure)
    rows, columns = dict(read_ticks(axes.yaxis)), read_ticks(axes.xaxis)
    grey = {"model input": inputs, "predictive mean": means}
    coloured = {"latent vector": latent, "pixel noise": noise}
    assert list(rows) == [*grey, *coloured]
    for kind, images in (grey | coloured).items():
        for image, (_, column) in zip(images, columns, strict=True):
            expected = colormaps["viridis"](image * 2)[..., :3] if kind in coloured else image[..., None].repeat(3, -1)
            np.testing.assert_array_equal(cut(canvas, rows[kind], column, 56), enlarge(expected, 56))
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "0.25", "0.5"]
    images, scale = axes.get_position(), bar.get_position()
    pixel = images.height / len(canvas)
    assert scale.y0 == pytest.approx(images.y0)
    # Rows count from the top, and an image's upper edge lies 28 pixels above its centre.
    assert scale.y1 == pytest.approx(images.y1 - (rows["latent vector"] + 0.5 - 28) * pixel)


@pytest.mark.parametrize("conditional", [False, True])
def test_interpolations_stand_between_their_ends_and_say_whose_label_was_used(conditional):
    starts, ends = make_images(2, 3, 28, 28)
    decoded = make_images(3, 5, 28, 28)
    figure = figures.interpolations(starts, decoded, ends, conditional, CAPTION)
    canvas = read_canvas(figure)
    assert canvas[:28, :28].tolist() == starts[0].tolist()
    assert canvas[-28:, -28:].tolist() == ends[2].tolist()
    labels = [name for name, _ in read_ticks(figure.axes[0].xaxis)]
    assert labels == ["start", "decoded along a straight line", "end"]
    middle = dict(read_ticks(figure.axes[0].xaxis))[labels[1]]
    assert cut(canvas, 13.5 + 30, middle, 28).tolist() == decoded[1, 2].tolist()
    assert ("labelled as the nearer end" in figure.texts[0].get_text()) == conditional


def test_traversals_name_the_dimensions_and_whole_standard_deviations():
    decoded = make_images(2, 5, 28, 28)
    figure = figures.traversals(decoded, [7, 0], [2.345, -0.001], [-1, -0.5, 0, 0.5, 1], "Bag", CAPTION)
    assert [name for name, _ in read_ticks(figure.axes[0].yaxis)] == ["z7: 2.35 nats", "z0: 0.00 nats"]
    minus = "\N{MINUS SIGN}"
    assert [name for name, _ in read_ticks(figure.axes[0].xaxis)] == [f"{minus}1 sd", "", "mean", "", "+1 sd"]
    assert figure.texts[0].get_text().endswith("of class Bag")


def test_manifold_names_its_middle_and_says_the_class_that_it_was_given():
    decoded, places = make_images(11, 11, 8, 8), np.arange(-5, 6) / 5
    figure = figures.manifold(decoded, places, places[::-1], "the prior's quantiles", None, CAPTION)
    across, up = (dict(read_ticks(axis)) for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis))
    minus = "\N{MINUS SIGN}"
    assert set(across) == {f"{minus}1.00", "z0 = 0.00", "1.00", ""}
    assert up["1.00"] < up["z1 = 0.00"] < up[f"{minus}1.00"], "rows count downwards"
    shown = cut(read_canvas(figure), up["1.00"], across[f"{minus}1.00"], 24)
    np.testing.assert_array_equal(shown, enlarge(decoded[0, 0], 24))
    assert figure.texts[0].get_text() == "The latent plane, decoded at the prior's quantiles"
    conditional = figures.manifold(decoded, places, places, "the prior's quantiles", "Coat", CAPTION)
    assert conditional.texts[0].get_text().endswith("(class Coat)")
