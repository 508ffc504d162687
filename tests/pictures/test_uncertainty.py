import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib import colormaps

from tests.drawing import CAPTION, cut, enlarge, make_images, make_inputs, read_canvas, read_ticks
from vae.model.distributions.likelihoods import BernoulliImage, LogisticPixels
from vae.pictures.uncertainty import split_variance, uncertainty_figure


def test_uncertainty_has_one_scale_for_both_parts_next_to_their_rows():
    inputs, means = make_images(2, 3, 8, 8)
    latent, noise = make_images(2, 3, 8, 8) / 2
    figure = uncertainty_figure(inputs, means, latent, noise, "abc", CAPTION)
    axes, bar = figure.axes
    canvas = read_canvas(figure)
    rows, columns = dict(read_ticks(axes.yaxis)), read_ticks(axes.xaxis)
    gray = {"model input": inputs, "predictive mean": means}
    colored = {"latent vector": latent, "pixel noise": noise}
    assert list(rows) == [*gray, *colored]
    for kind, images in (gray | colored).items():
        for image, (_, column) in zip(images, columns, strict=True):
            shown = colormaps["viridis"](image[0] * 2)[..., :3].transpose(2, 0, 1) if kind in colored else image
            expected = np.broadcast_to(enlarge(shown, 56).reshape(56, 56, -1), (56, 56, 3))
            np.testing.assert_array_equal(cut(canvas, rows[kind], column, 56), expected)
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "0.25", "0.5"]
    images, scale = axes.get_position(), bar.get_position()
    pixel = images.height / len(canvas)
    assert scale.y0 == pytest.approx(images.y0)
    # Rows count from the top, and an image's upper edge lies 28 pixels above its center.
    assert scale.y1 == pytest.approx(images.y1 - (rows["latent vector"] + 0.5 - 28) * pixel)


def test_the_channels_of_a_color_image_share_a_map_of_their_mean_deviation():
    inputs, latent, noise = make_images(3, 2, 8, 8, channels=3)
    figure = uncertainty_figure(inputs, inputs, latent / 2, noise / 2, "ab", CAPTION)
    rows, (_, column) = dict(read_ticks(figure.axes[0].yaxis)), read_ticks(figure.axes[0].xaxis)[1]
    canvas = read_canvas(figure)
    np.testing.assert_array_equal(cut(canvas, rows["model input"], column, 56), enlarge(inputs[1], 56))
    expected = colormaps["viridis"](latent[1].mean(axis=0))[..., :3].transpose(2, 0, 1)
    np.testing.assert_array_equal(cut(canvas, rows["latent vector"], column, 56), enlarge(expected, 56))


def test_the_parts_of_the_uncertainty_are_the_variance_of_pixels_drawn_from_the_model(make_model):
    model = make_model(spread=3.0).eval().requires_grad_(False)
    images, labels = make_inputs(2)
    draws = 2_000
    found = split_variance(model, images, labels, draws, seed=0)
    latents = model.draw_posterior(torch.from_numpy(images).float(), draws, 0, torch.from_numpy(labels))
    drawn = model.image_given(latents).sample().double()
    total = found.latent_deviation**2 + found.noise_deviation**2
    # A mean of 2000 values of 0 or 1 has a standard error of at most 0.5 / sqrt(2000) = 0.011; five of them.
    np.testing.assert_allclose(found.mean, drawn.mean(0), atol=0.056)
    np.testing.assert_allclose(total, drawn.var(0), atol=0.056)
    assert found.latent_deviation.max() > 0.1, "the latent vector would have no part in it"
    # All that is known of a binary pixel is its mean.
    np.testing.assert_allclose(total, found.mean * (1 - found.mean), atol=1e-5)


def test_a_binary_pixels_variance_is_that_of_a_bernoulli():
    logits = torch.tensor([[-3.0, 0.5]])
    torch.testing.assert_close(BernoulliImage(logits).variance, dist.Bernoulli(logits=logits).variance)


@pytest.mark.parametrize(("mean", "scale"), [(0.5, 0.001), (0.3, 0.05), (0.02, 0.1), (1.0, 0.3)])
def test_an_8_bit_pixels_variance_is_the_sum_over_its_values(mean, scale):
    pixel = LogisticPixels(torch.tensor(mean).double(), torch.tensor(scale).double().log())
    values = torch.arange(256).double() / 255
    # At the ends log_prob takes what lies beyond.
    chances = torch.stack([pixel.log_prob(value) for value in values]).exp()
    expected = (chances * values**2).sum() - (chances * values).sum() ** 2
    assert chances.sum() == pytest.approx(1, abs=1e-9)
    assert pixel.variance.item() == pytest.approx(expected.item(), abs=1e-9)
