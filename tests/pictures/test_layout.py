import io
import math
import string

import matplotlib.image
import numpy as np
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from tests.drawing import CAPTION, make_images, read_canvas, render
from vae.pictures.layout import UNIT, text_width
from vae.pictures.reconstructions import reconstructions_figure


def test_image_pixels_are_whole_pixels_of_the_png():
    images = make_images(3, 6, 28, 28)
    figure = reconstructions_figure(images, images > 0.5, images**2, "abc", CAPTION)
    picture = matplotlib.image.imread(io.BytesIO(render(figure, dpi=150)))[:, :, 0]
    canvas = read_canvas(figure)
    area = figure.axes[0].get_position()
    top, left = round((1 - area.y1) * picture.shape[0]), round(area.x0 * picture.shape[1])
    shown = picture[top:, left:][: 2 * canvas.shape[0], : 2 * canvas.shape[1]]
    # The PNG has 256 gray levels: 1/255 for rounding there and 1/255 for the color map's.
    np.testing.assert_allclose(shown, canvas.repeat(2, axis=0).repeat(2, axis=1), atol=2 / 255)


@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_a_texts_width_is_that_of_its_outline(weight):
    for text in [*string.ascii_letters, *string.digits, *string.punctuation, *"é±·ß", "Ankle boot", "83.9 nats, NLL"]:
        outline = TextPath((0, 0), text, prop=FontProperties(size=40, weight=weight))
        assert text_width(text, 40, weight) == math.ceil(outline.get_extents().width / 72 / UNIT), text
    assert text_width("", 40) == 0
