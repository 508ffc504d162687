import numpy as np
import pytest
import torch

from tests.drawing import CAPTION, cut, enlarge, make_images, read_canvas, read_ticks
from vae.pictures.layout import GUTTER
from vae.pictures.samples import sample_each_class, samples_figure, samples_neighbors_figure


@pytest.mark.parametrize(("count", "rows", "channels"), [(1, 1, 1), (20, 1, 1), (21, 2, 1), (100, 5, 1), (21, 2, 3)])
def test_samples_fill_rows_in_order(count, rows, channels):
    images = make_images(count, 28, 28, channels=channels)
    canvas = read_canvas(samples_figure(images, CAPTION)).copy()
    step = 28 + GUTTER
    assert canvas.shape[:2] == (rows * step - GUTTER, min(count, 20) * step - GUTTER)
    for position, image in enumerate(images):
        top, left = position // 20 * step, position % 20 * step
        np.testing.assert_array_equal(canvas[top : top + 28, left : left + 28], enlarge(image, 28))
        canvas[top : top + 28, left : left + 28] = 1
    assert (canvas == 1).all(), "the places that are left over are not white"


@pytest.mark.parametrize(("count", "shown"), [(3, 3), (25, 20), (150, 100)])
def test_samples_are_above_their_neighbors_closest_pairs_first(count, shown):
    drawn, neighbors = make_images(2, count, 8, 8)
    distances = np.random.default_rng(1).permutation(count) / 10
    figure = samples_neighbors_figure(drawn, neighbors, distances, CAPTION)
    rows = [row for _, row in read_ticks(figure.axes[0].yaxis)]
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == [f"{place / 10:.1f}" for place in range(shown)]
    for place, text in enumerate(texts):
        pair = int(np.flatnonzero(distances == place / 10)[0])
        at = 2 * (place // min(count, 20))
        for images, row in ((drawn, rows[at]), (neighbors, rows[at + 1])):
            shown_image = cut(read_canvas(figure), row, text.get_position()[0], 24)
            np.testing.assert_array_equal(shown_image, enlarge(images[pair], 24))


def test_classes_are_sampled_from_the_same_draws(make_model):
    model = make_model(condition="label")
    found = sample_each_class(model, 3, seed=1)
    assert found.shape == (3, 10, 1, 8, 8)
    np.testing.assert_array_equal(found[:, 7], model.sample(3, 1, torch.full((3,), 7)).detach())
