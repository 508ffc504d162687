from typing import get_args

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex, to_rgb

from tests.drawing import (
    CAPTION,
    FASHION,
    assert_apart,
    make_history,
    make_images,
    make_points,
    read_canvas,
    render,
)
from vae import figures
from vae.settings import DatasetName, Embed, Model


def make_errors(labels):
    random = np.random.default_rng(0)
    return {
        name: random.normal(mean, mean / 9, len(labels)) for name, mean in (("nll", 90), ("mse", 0.02), ("ssim", 0.8))
    }


def draw_all(classes=FASHION, side=28, splits=("train", "validation")):
    count = len(classes)
    images, probabilities = make_images(count, 6, side, side), make_images(3, count, side, side)
    binary = (images > 0.5).astype(float)
    extremes, points = make_images(2, count, 2, side, side), make_points(classes)
    labels = np.arange(1000) % count
    row, square = images[:, 0], make_images(21, 21, side, side)
    steps, kl = np.linspace(-3, 3, 13), np.linspace(3, 0, 40)
    return {
        "reconstructions": figures.reconstructions(images, binary, images**2, classes, CAPTION),
        "reconstructions_extremes": figures.reconstructions_extremes(
            extremes, extremes > 0.5, extremes**2, 1234.5 * extremes[..., 0, 0] - 99, classes, CAPTION
        ),
        "reconstructions_by_epoch": figures.reconstructions_by_epoch(
            row, binary[:, 0], probabilities, [1, 10, 30], classes, CAPTION
        ),
        "uncertainty": figures.uncertainty(row, row, row / 2, row / 2, classes, CAPTION),
        "samples": figures.samples(make_images(50, side, side), CAPTION),
        "samples_by_class": figures.samples_by_class(probabilities, [name[:4] for name in classes], CAPTION),
        "samples_neighbours": figures.samples_neighbours(*make_images(2, 50, side, side), np.arange(50), CAPTION),
        "interpolations": figures.interpolations(row, make_images(count, 11, side, side), row, True, CAPTION),
        "traversals": figures.traversals(
            make_images(10, 13, side, side), range(10), kl[:10], steps, classes[0], CAPTION
        ),
        "manifold": figures.manifold(
            square, np.linspace(-2, 2, 21), np.linspace(2, -2, 21), "the prior's quantiles", None, CAPTION
        ),
        "embedding": figures.embedding(points, classes, "tsne", CAPTION),
        "embedding_by_class": figures.embedding_by_class(points, classes, "tsne", CAPTION),
        "embedding_thumbnails": figures.embedding_thumbnails(
            points, make_images(len(points), side, side), classes, "tsne", CAPTION
        ),
        "kl_per_dimension": figures.kl_per_dimension(kl, 30, CAPTION),
        "elbo": figures.elbo(make_history(30, splits), CAPTION),
        "error_by_class": figures.error_by_class(make_errors(labels), labels, classes, CAPTION),
        "confusion": figures.confusion(labels, labels[::-1], classes, CAPTION),
    }


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


def test_embedding_by_class_has_a_panel_a_class_with_all_points_at_one_scale():
    points = make_points(["a", "b", "c"], count=30)
    figure = figures.embedding_by_class(points, ["a", "b", "c"], "pca", CAPTION)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a (10)", "b (10)", "c (10)"]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    for axes, name in zip(figure.axes, "abc", strict=True):
        others, members = axes.lines
        np.testing.assert_array_equal(members.get_xydata(), points.loc[points["label"] == name, ["x", "y"]])
        assert len(others.get_xydata()) == 20
        assert to_rgb(others.get_color()) == (0.85,) * 3
        for values, (low, high) in ((points["x"], axes.get_xlim()), (points["y"], axes.get_ylim())):
            assert low < values.min() and values.max() < high


def test_thumbnails_lie_as_the_points_do_and_the_nearest_to_a_cell_is_shown():
    # On a square of side 19 a cell is one unit wide; the fourth point is the nearer one to its cell's centre.
    points = pd.DataFrame({"x": [0, 19, 7.3, 7.1], "y": [0, 19, 12.2, 12.0], "label": ["a", "b", "a", "b"]})
    images = make_images(4, 28, 28)
    figure = figures.embedding_thumbnails(points, images, ["a", "b"], "tsne", CAPTION)
    canvas = read_canvas(figure).copy()
    assert figure.texts[0].get_text() == "t-SNE of the posterior means: 3 of 4 test images"
    assert len(canvas) == 20 * 34 - 2
    colours = [handle.get_color() for handle in figure.legends[0].legend_handles]
    for index, row, column, label in ((0, 19, 0, 0), (1, 0, 19, 1), (3, 7, 7, 1)):
        framed = canvas[34 * row :, 34 * column :][:32, :32]
        np.testing.assert_array_equal(framed[2:-2, 2:-2], images[index][..., None].repeat(3, axis=-1))
        assert (framed[0] == colours[label]).all()
        framed[:] = 1
    assert (canvas == 1).all(), "something stands between the images"


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.c_[np.arange(5), np.zeros(5)]])
def test_a_collapsed_latent_space_can_be_drawn(points):
    frame = pd.DataFrame(points, columns=["x", "y"]).assign(label=list("ababa"))
    for draw in (figures.embedding, figures.embedding_by_class):
        render(draw(frame, ["a", "b"], "pca", CAPTION))
    shown = figures.embedding_thumbnails(frame, make_images(5, 8, 8), ["a", "b"], "pca", CAPTION)
    render(shown)
    assert f"{len(np.unique(points, axis=0))} of 5" in shown.texts[0].get_text()


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


@pytest.mark.parametrize(("kl", "order"), [([0.5, 2, 1], [1, 2, 0]), ([0.0], [0]), ([-0.001, 0], [1, 0])])
def test_kl_bars_fall_and_the_title_counts_the_active_ones(kl, order):
    figure = figures.kl_per_dimension(np.array(kl), 2, CAPTION)
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [kl[dimension] for dimension in order]
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(dimension) for dimension in order]
    expected = f"KL of each latent dimension taken alone: 2 of {len(kl)} units active"
    assert figure.texts[0].get_text() == expected


def test_many_kl_bars_have_no_numbers():
    assert figures.kl_per_dimension(np.ones(51), 51, CAPTION).axes[0].get_xticks().size == 0


def test_errors_by_class_are_means_with_their_standard_errors():
    labels = np.array([0, 0, 0, 0, 1])
    nll = np.array([1.0, 2, 3, 4, 7])
    figure = figures.error_by_class({"nll": nll, "mse": nll / 10, "ssim": -nll}, labels, ["Bag", "Coat"], CAPTION)
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


def test_confusion_counts_answers_by_class():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 2, 1, 1, 0])
    figure = figures.confusion(labels, predicted, ["Bag", "Coat", "Dress"], CAPTION)
    axes = figure.axes[0]
    counts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "2", (0, 2): "1", (1, 1): "2", (2, 0): "1"}
    np.testing.assert_allclose(axes.images[0].get_array(), [[2 / 3, 0, 1 / 3], [0, 1, 0], [1, 0, 0]])
    assert "66.7%" in figure.texts[0].get_text()
    assert axes.get_ylabel() == "class"


def test_confusion_bears_a_class_without_images():
    figure = figures.confusion(np.array([0]), np.array([1]), ["a", "b"], CAPTION)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[0, 1], [0, 0]])


@pytest.mark.parametrize(
    ("classes", "side", "splits"),
    [(FASHION, 28, ("train", "validation")), (["0", "1", "2"], 8, ("train",)), (["0", "1"], 28, ("train",))],
)
def test_every_picture_has_its_heading_and_keeps_inside_its_edges(classes, side, splits):
    drawn = draw_all(classes, side, splits)
    titles = [figure.texts[0].get_text() for figure in drawn.values()]
    assert len(set(titles)) == len(drawn)
    for name, figure in drawn.items():
        title, caption = figure.texts[:2]
        assert caption.get_text() == CAPTION
        assert figure.get_facecolor() == (1, 1, 1, 1)
        figure.draw_without_rendering()
        labels = [label for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for label in axis.get_ticklabels()]
        assert_apart([title, caption, *(labels if figure.axes[0].images else [])])
        ink, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert ink.x0 >= 0 and ink.y0 >= 0 and ink.x1 <= width and ink.y1 <= height, f"{name}: {ink}"
        assert max(ink.x0, ink.y0, width - ink.x1, height - ink.y1) < 0.2, f"{name} wastes space: {ink}"


def test_same_inputs_give_the_same_bytes_and_leave_no_figure_open():
    first, second = (draw_all(["0", "1", "2"], side=8) for _ in range(2))
    for name in first:
        assert render(first[name]) == render(second[name]), name
    assert pyplot.get_fignums() == []
