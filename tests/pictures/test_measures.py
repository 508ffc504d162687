import numpy as np
import pytest

from tests.drawing import CAPTION
from vae.pictures.measures import confusion_figure, kl_per_dimension_figure


@pytest.mark.parametrize(("kl", "order"), [([0.5, 2, 1], [1, 2, 0]), ([0.0], [0]), ([-0.001, 0], [1, 0])])
def test_kl_bars_fall_and_the_title_counts_the_active_ones(kl, order):
    figure = kl_per_dimension_figure(np.array(kl), 2, CAPTION)
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [kl[dimension] for dimension in order]
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(dimension) for dimension in order]
    expected = f"KL of each latent dimension taken alone: 2 of {len(kl)} units active"
    assert figure.texts[0].get_text() == expected


def test_many_kl_bars_have_no_numbers():
    assert kl_per_dimension_figure(np.ones(51), 51, CAPTION).axes[0].get_xticks().size == 0


def test_confusion_counts_answers_by_class():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 2, 1, 1, 0])
    figure = confusion_figure(labels, predicted, ["Bag", "Coat", "Dress"], CAPTION)
    axes = figure.axes[0]
    counts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "2", (0, 2): "1", (1, 1): "2", (2, 0): "1"}
    np.testing.assert_allclose(axes.images[0].get_array(), [[2 / 3, 0, 1 / 3], [0, 1, 0], [1, 0, 0]])
    assert "66.7%" in figure.texts[0].get_text()
    assert axes.get_ylabel() == "class"


def test_confusion_accepts_a_class_without_images():
    figure = confusion_figure(np.array([0]), np.array([1]), ["a", "b"], CAPTION)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[0, 1], [0, 0]])
