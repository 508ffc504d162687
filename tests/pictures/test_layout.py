import io

import matplotlib.image
import numpy as np

from tests.drawing import CAPTION, make_images, read_canvas, render
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
