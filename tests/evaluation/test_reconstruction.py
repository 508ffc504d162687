import math

import numpy as np
import pytest
import torch

from tests.conftest import as_split
from vae.evaluation import reconstruction
from vae.evaluation.reconstruction import Errors, error_rate, measure, metrics, squared_error, ssim

pytestmark = pytest.mark.usefixtures("lean")

C1, C2 = 0.01**2, 0.03**2


def random_images(n, shape=(28, 28), seed=0):
    return torch.rand(n, 1, *shape, generator=torch.Generator().manual_seed(seed))


def ssim_by_loops(x, y, size):
    """The definition, one window at a time, on arrays (height, width)."""
    offsets = np.arange(size) - size // 2
    window = np.array([[math.exp(-(i * i + j * j) / (2 * 1.5**2)) for j in offsets] for i in offsets])
    window /= window.sum()
    values = []
    for top in range(x.shape[0] - size + 1):
        for left in range(x.shape[1] - size + 1):
            a, b = (image[top : top + size, left : left + size] for image in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + C1)
                * (2 * covariance + C2)
                / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))
            )
    return np.mean(values)


@pytest.mark.parametrize(
    ("shape", "size"), [((28, 28), 11), ((8, 8), 7), ((12, 9), 9), ((11, 11), 11), ((1, 5), 1), ((2, 2), 1)]
)
def test_ssim_is_the_mean_over_windows_of_the_published_formula(shape, size):
    x, y = random_images(2, shape), random_images(2, shape, seed=1)
    y[1] = (x[1] + 0.3 * y[1]).clamp(max=1)
    expected = [
        ssim_by_loops(a, b, size) for a, b in zip(x[:, 0].double().numpy(), y[:, 0].double().numpy(), strict=True)
    ]
    # Variances as differences of float64 moments, divided by at least C2 = 0.0009.
    np.testing.assert_allclose(ssim(x, y), expected, rtol=1e-11)


def test_identical_images_are_perfectly_similar():
    images = random_images(3)
    # A variance as a difference of float64 moments, divided by at least C2.
    np.testing.assert_allclose(ssim(images, images), 1, rtol=1e-12)


def test_constant_images_differ_in_luminance_alone():
    x, y = torch.full((1, 1, 28, 28), 0.25), torch.full((1, 1, 28, 28), 0.75)
    np.testing.assert_allclose(ssim(x, y), (2 * 0.25 * 0.75 + C1) / (0.25**2 + 0.75**2 + C1), rtol=1e-12)


def test_negatives_are_dissimilar_and_similarity_is_symmetric():
    x, y = random_images(3), random_images(3, seed=1)
    assert (ssim(x, 1 - x) < -0.9).all()
    # Products in the other order.
    torch.testing.assert_close(ssim(x, y), ssim(y, x), rtol=1e-12, atol=0)
    assert (ssim(x, y).abs() < 0.1).all()


def test_squared_error_and_error_rate_by_hand():
    images = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]], [[[0.0, 0.0], [1.0, 1.0]]]])
    others = torch.tensor([[[[0.0, 0.5], [1.0, 1.0]]], [[[0.25, 0.4], [0.6, 0.75]]]])
    # The first: one pixel off by a half, which is rounded to 0, and one by one. The second is right everywhere.
    np.testing.assert_allclose(squared_error(images, others), [1.25 / 4, (0.0625 + 0.16 + 0.16 + 0.0625) / 4])
    np.testing.assert_array_equal(error_rate(images, others), [0.5, 0])


@pytest.mark.parametrize("condition", ["none", "label"])
def test_errors_are_those_of_the_posterior_means_reconstruction_with_each_images_label(
    make_model, digits, monkeypatch, condition, device
):
    monkeypatch.setattr(reconstruction, "_BATCH", 7)
    model = make_model(spread=3, condition=condition).to(device)
    images, labels = (digits[:20] > 127).to(torch.uint8).to(device) * 255, torch.arange(20, device=device) % 10
    errors = measure(model, as_split(images, labels), binary=True)
    x = images.float() / 255
    reconstructed = model.reconstruct(x, labels).detach()
    # Other batches' float32 products may add up in another order.
    expected = Errors(squared_error(x, reconstructed), ssim(x, reconstructed), error_rate(x, reconstructed))
    for name, values in errors._asdict().items():
        assert values.shape == (20,)
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, getattr(expected, name).cpu(), rtol=1e-4, atol=1e-5)


def test_a_model_that_always_paints_the_image_makes_no_errors(make_model, digits):
    image = (digits[0] > 127).to(torch.uint8) * 255
    model = make_model(spread=0)
    with torch.no_grad():
        # Logits of 30 or -30: probabilities within 1e-13 of the pixels.
        model.decoder.bias.copy_(image.float() / 255 * 60 - 30)
    errors = measure(model, as_split(image.expand(5, -1, -1, -1)), binary=True)
    expected = {"reconstruction_mse": 0, "reconstruction_ssim": 1, "reconstruction_error_rate": 0}
    assert metrics(errors) == pytest.approx(expected | {f"{name}_stderr": 0 for name in expected}, abs=1e-12)


def test_gray_pixels_have_no_error_rate(make_model, digits):
    errors = measure(make_model(), as_split(digits[:5]), binary=False)
    assert errors.error_rate is None
    names = {"reconstruction_mse", "reconstruction_ssim"}
    assert set(metrics(errors)) == names | {f"{name}_stderr" for name in names}


def test_metrics_are_means_over_images_with_standard_errors():
    errors = Errors(torch.tensor([0.1, 0.3]), torch.tensor([0.5, 1.0]), torch.tensor([0.0, 0.25]))
    expected = {"reconstruction_mse": 0.2, "reconstruction_ssim": 0.75, "reconstruction_error_rate": 0.125}
    # Of two values: half their difference.
    expected |= {f"{name}_stderr": size for name, size in zip(expected, (0.1, 0.25, 0.125), strict=True)}
    assert metrics(errors) == pytest.approx(expected)
