import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb

from tests.drawing import CAPTION, FASHION, assert_apart, make_images, make_points, read_canvas, render
from vae.pictures.embedding import densest, embedding_by_class_figure, embedding_figure, embedding_thumbnails_figure


@pytest.mark.parametrize("classes", [FASHION, ["0", "1", "2"]])
def test_embedding_shows_every_class_in_its_own_color(classes):
    points = make_points(classes)
    axes = embedding_figure(points, classes, "tsne", CAPTION).axes[0]
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == classes
    colors = {name: to_hex(handle.get_color()) for name, handle in zip(classes, legend.legend_handles, strict=True)}
    assert len(set(colors.values())) == len(classes)
    scatter = axes.collections[0]
    np.testing.assert_array_equal(scatter.get_offsets(), points[["x", "y"]])
    assert [to_hex(color) for color in scatter.get_facecolors()] == [colors[label] for label in points["label"]]
    assert axes.get_aspect() == 1


def test_a_name_is_at_a_point_in_the_denser_of_two_clusters():
    random = np.random.default_rng(0)
    small, large = random.normal([-50, 0], 1, (40, 2)), random.normal([50, 0], 1, (60, 2))
    points = np.concatenate([small, large])
    found = densest(points)
    # The circle around each point that holds a quarter of all, itself not counted: 25 of the other 99 points.
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    np.testing.assert_array_equal(found, points[np.sort(distances, axis=1)[:, 25].argmin()])
    assert found[0] > 45, "the median over all lies at the edge of a cluster, the mean between the two"
    np.testing.assert_array_equal(densest(points[:1]), points[0])


def test_embedding_names_are_where_their_class_is_densest_and_apart():
    # The second and the third of four points are nearest to each other, and the first of the two is taken.
    points = pd.DataFrame(
        {
            "x": [0.0, 2, 3, 100, 0, 2, 3, 100, 40, 42, 43, 60],
            "y": [0.0, 1, 1, 100, 0, 1, 1, 100, 40, 41, 41, 60],
            "label": ["Coat"] * 4 + ["Shirt"] * 4 + ["Bag"] * 4,
        }
    )
    figure = embedding_figure(points, ["Bag", "Coat", "Shirt"], "pca", CAPTION)
    names = figure.axes[0].texts
    assert {name.get_text(): name.xy for name in names} == {"Bag": (42, 41), "Coat": (2, 1), "Shirt": (2, 1)}
    figure.draw_without_rendering()
    assert_apart(names)
    assert next(name for name in names if name.get_text() == "Bag").get_position() == (0, 0), "moved without need"


@pytest.mark.parametrize(("method", "name"), [("tsne", "t-SNE"), ("pca", "PCA")])
def test_embedding_title_says_method_and_number_of_images(method, name):
    figure = embedding_figure(make_points(["a", "b"], count=1200), ["a", "b"], method, CAPTION)
    assert figure.texts[0].get_text() == f"{name} of the posterior means of 1,200 test images"
    assert figure.axes[0].get_xlabel() == f"{name} 1"


def test_embedding_by_class_has_one_panel_per_class_with_all_points_at_one_scale():
    points = make_points(["a", "b", "c"], count=30)
    figure = embedding_by_class_figure(points, ["a", "b", "c"], "pca", CAPTION)
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
    # On a square of side 19 a cell is one unit wide; the fourth point is the nearer one to its cell's center.
    points = pd.DataFrame({"x": [0, 19, 7.3, 7.1], "y": [0, 19, 12.2, 12.0], "label": ["a", "b", "a", "b"]})
    images = make_images(4, 28, 28)
    figure = embedding_thumbnails_figure(points, images, ["a", "b"], "tsne", CAPTION)
    canvas = read_canvas(figure).copy()
    assert figure.texts[0].get_text() == "t-SNE of the posterior means: 3 of 4 test images"
    assert len(canvas) == 20 * 34 - 2
    colors = [handle.get_color() for handle in figure.legends[0].legend_handles]
    for index, row, column, label in ((0, 19, 0, 0), (1, 0, 19, 1), (3, 7, 7, 1)):
        framed = canvas[34 * row :, 34 * column :][:32, :32]
        np.testing.assert_array_equal(framed[2:-2, 2:-2], images[index, 0][..., None].repeat(3, axis=-1))
        assert (framed[0] == colors[label]).all()
        framed[:] = 1
    assert (canvas == 1).all(), "something is drawn between the images"


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.c_[np.arange(5), np.zeros(5)]])
def test_a_collapsed_latent_space_can_be_drawn(points):
    frame = pd.DataFrame(points, columns=["x", "y"]).assign(label=list("ababa"))
    for draw in (embedding_figure, embedding_by_class_figure):
        render(draw(frame, ["a", "b"], "pca", CAPTION))
    shown = embedding_thumbnails_figure(frame, make_images(5, 8, 8), ["a", "b"], "pca", CAPTION)
    render(shown)
    assert f"{len(np.unique(points, axis=0))} of 5" in shown.texts[0].get_text()
