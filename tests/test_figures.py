import io
import itertools
from typing import get_args

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.transforms import Bbox

from vae import figures
from vae.settings import DatasetName, Embed, Model

CAPTION = "FashionMNIST, static binarization, 30 epochs"
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def make_images(*shape):
    return np.random.default_rng(0).random(shape)


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


def draw_all(classes=FASHION, side=28, splits=("train", "validation")):
    count = len(classes)
    images, probabilities = make_images(count, 6, side, side), make_images(3, count, side, side)
    binary = (images > 0.5).astype(float)
    return {
        "reconstructions": figures.reconstructions(images, binary, images**2, classes, CAPTION),
        "reconstructions_by_epoch": figures.reconstructions_by_epoch(
            images[:, 0], binary[:, 0], probabilities, [1, 10, 30], classes, CAPTION
        ),
        "samples": figures.samples(make_images(50, side, side), CAPTION),
        "embedding": figures.embedding(make_points(classes), classes, "tsne", CAPTION),
        "elbo": figures.elbo(make_history(30, splits), CAPTION),
    }


def render(figure, dpi=75):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def read_canvas(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def read_ticks(axis):
    return [(label.get_text(), place) for label, place in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)]


def enlarge(image, size):
    scale = size // len(image)
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def cut(canvas, row, column, size):
    """Take the square whose centre is at `row` and `column`."""
    top, left = round(row - (size - 1) / 2), round(column - (size - 1) / 2)
    return canvas[top : top + size, left : left + size]


def assert_apart(texts):
    for one, other in itertools.combinations(texts, 2):
        common = Bbox.intersection(one.get_window_extent(), other.get_window_extent())
        assert common is None or common.height < 0.01, f"{one.get_text()} and {other.get_text()} overlap"


def test_every_setting_has_a_name():
    assert set(figures.DATASETS) == set(get_args(DatasetName))
    grey = set(get_args(Model.model_fields["likelihood"].annotation)) - {"bernoulli"}
    assert set(figures.LIKELIHOODS) == grey
    assert set(figures.METHODS) == set(get_args(Embed.model_fields["method"].annotation))


@pytest.mark.parametrize(
    ("dataset", "binarization", "likelihood", "epochs", "best_epoch", "expected"),
    [
        ("mnist", "dynamic", "bernoulli", 50, None, "MNIST, dynamic binarization, 50 epochs"),
        ("fashion_mnist", "static", "bernoulli", 50, 50, "FashionMNIST, static binarization, 50 epochs"),
        ("kmnist", "threshold", "bernoulli", 50, 43, "KMNIST, threshold binarization, 50 epochs (best: 43)"),
        (
            "digits",
            "none",
            "relaxed_bernoulli",
            1,
            None,
            "Digits (8 x 8), grey-scale (relaxed Bernoulli, no likelihood), 1 epoch",
        ),
        ("mnist", "none", "discretized_logistic", 2, 2, "MNIST, grey-scale (discretized logistic), 2 epochs"),
    ],
)
def test_description_says_data_pixels_and_epochs(dataset, binarization, likelihood, epochs, best_epoch, expected):
    metadata = {"dataset": dataset, "binarization": binarization, "model": {"likelihood": likelihood}}
    assert figures.describe(metadata | {"epochs": epochs, "best_epoch": best_epoch}) == expected


def test_first_of_each_class_takes_as_many_as_the_rarest_class_has():
    labels = np.array([2, 0, 1, 0, 2, 1, 0, 2])
    np.testing.assert_array_equal(figures.first_of_each_class(labels, 3, 6), [[1, 3], [2, 5], [0, 4]])
    np.testing.assert_array_equal(figures.first_of_each_class(labels, 3, 1), [[1], [2], [0]])


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
            column = centre + (step - (across - 1) / 2) * (size + figures.GUTTER)
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
    step = 28 + figures.GUTTER
    assert canvas.shape == (rows * step - figures.GUTTER, min(count, 20) * step - figures.GUTTER)
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


@pytest.mark.parametrize("classes", [FASHION, ["0", "1", "2"]])
def test_embedding_shows_every_class_in_its_own_colour(classes):
    points = make_points(classes)
    axes = figures.embedding(points, classes, "tsne", CAPTION).axes[0]
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == classes
    colours = {name: to_hex(handle.get_color()) for name, handle in zip(classes, legend.legend_handles, strict=True)}
    assert len(set(colours.values())) == len(classes)
    scatter = axes.collections[0]
    np.testing.assert_array_equal(scatter.get_offsets(), points[["x", "y"]])
    assert [to_hex(colour) for colour in scatter.get_facecolors()] == [colours[label] for label in points["label"]]
    assert axes.get_aspect() == 1


def test_embedding_names_stand_at_the_medians_and_apart():
    points = pd.DataFrame(
        {
            "x": [0.0, 2, 100, 0, 2, 100, 40, 42, 44],
            "y": [0.0, 1, 100, 0, 1, 100, 40, 41, 42],
            "label": ["Coat"] * 3 + ["Shirt"] * 3 + ["Bag"] * 3,
        }
    )
    figure = figures.embedding(points, ["Bag", "Coat", "Shirt"], "pca", CAPTION)
    names = figure.axes[0].texts
    assert {name.get_text(): name.xy for name in names} == {"Bag": (42, 41), "Coat": (2, 1), "Shirt": (2, 1)}
    figure.draw_without_rendering()
    assert_apart(names)
    assert next(name for name in names if name.get_text() == "Bag").get_position() == (0, 0), "moved without need"


@pytest.mark.parametrize(("method", "name"), [("tsne", "t-SNE"), ("pca", "PCA")])
def test_embedding_title_says_method_and_number_of_images(method, name):
    figure = figures.embedding(make_points(["a", "b"], count=1200), ["a", "b"], method, CAPTION)
    assert figure.texts[0].get_text() == f"{name} of the posterior means of 1,200 test images"
    assert figure.axes[0].get_xlabel() == f"{name} 1"


@pytest.mark.parametrize("splits", [("train", "validation"), ("train",)])
@pytest.mark.parametrize("epochs", [1, 3, 50])
def test_elbo_draws_the_history(splits, epochs):
    history = make_history(epochs, splits)
    figure = figures.elbo(history, CAPTION)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(splits)
    terms = ["elbo", "reconstruction_nll", "kl"]
    for term, axes in zip(terms, figure.axes, strict=True):
        curves = {line.get_label(): line for line in axes.lines if line.get_label() in splits}
        assert list(curves) == list(splits)
        finals = {text.get_text() for text in axes.texts}
        low, high = axes.get_ylim()
        for split, line in curves.items():
            np.testing.assert_array_equal(line.get_xydata(), history[["epoch", f"{split}_{term}"]])
            final = history[f"{split}_{term}"].iloc[-1]
            assert f"{final:.2f}".replace("-", "\N{MINUS SIGN}") in finals
            assert low < final < high
        assert axes.get_ylabel() == "nats per image"
        assert all(tick == round(tick) for tick in axes.get_xticks()), "half an epoch"


def test_elbo_limits_do_not_depend_on_the_first_epochs_or_on_a_spike():
    history = make_history(50)
    calm = [axes.get_ylim() for axes in figures.elbo(history, CAPTION).axes]
    values = history.columns.drop("epoch")
    history.loc[0, values] *= 1000
    history.loc[30, values] *= 1000
    wild = [axes.get_ylim() for axes in figures.elbo(history, CAPTION).axes]
    for (low, high), (calm_low, calm_high) in zip(wild, calm, strict=True):
        assert high - low < 2 * (calm_high - calm_low)


@pytest.mark.parametrize(
    ("classes", "side", "splits"),
    [(FASHION, 28, ("train", "validation")), (["0", "1", "2"], 8, ("train",)), (["0", "1"], 28, ("train",))],
)
def test_every_picture_has_its_heading_and_keeps_inside_its_edges(classes, side, splits):
    drawn = draw_all(classes, side, splits)
    titles = [figure.texts[0].get_text() for figure in drawn.values()]
    assert len(set(titles)) == len(drawn)
    for name, figure in drawn.items():
        title, caption = figure.texts
        assert caption.get_text() == CAPTION
        assert figure.get_facecolor() == (1, 1, 1, 1)
        figure.draw_without_rendering()
        labels = [label for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for label in axis.get_ticklabels()]
        assert_apart([title, caption, *(labels if figure.axes[0].images else [])])
        ink, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert ink.x0 >= 0 and ink.y0 >= 0 and ink.x1 <= width and ink.y1 <= height, f"{name}: {ink}"
        assert max(ink.x0, ink.y0, width - ink.x1, height - ink.y1) < 0.2, f"{name} wastes space: {ink}"


def test_same_inputs_give_the_same_bytes_and_leave_no_figure_open():
    first, second = draw_all(), draw_all()
    for name in first:
        assert render(first[name]) == render(second[name]), name
    assert pyplot.get_fignums() == []
