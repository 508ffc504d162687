import numpy as np
import pytest
import torch

from vae.evaluation.uncertainty import Estimate, difference, flat, over_draws, over_images, ratio

EXACT = 1e-12  # float64 sums of a few hundred terms


def test_the_error_of_a_mean_over_images_is_numpys():
    values = torch.randn(300)
    expected = values.double().numpy()
    assert over_images(values) == pytest.approx((expected.mean(), expected.std(ddof=1) / np.sqrt(300)), rel=EXACT)
    assert over_images(values[:1]) == (values[0].item(), 0)


def test_the_error_of_a_share_is_binomial():
    share, error = over_images(torch.arange(200) < 30)
    assert share == 0.15
    # With n - 1 in place of n.
    assert error == pytest.approx(np.sqrt(0.15 * 0.85 / 199), rel=EXACT)


def test_draws_and_images_add_up_in_squares():
    # A standard deviation of 2 over three draws, and 3 nats over images.
    assert over_draws([4.0, 6.0, 8.0], 3.0) == pytest.approx((6, np.sqrt(4 / 3 + 9)), rel=EXACT)
    assert over_draws([4.0], 3.0) == (4, 3)
    assert difference(Estimate(5, 0.3), Estimate(7, 0.4)) == pytest.approx((-2, 0.5), rel=EXACT)


def test_the_error_of_a_ratio_is_that_of_repeated_samples():
    generator = np.random.default_rng(0)
    tops, bottoms = generator.gamma(4, 2, (2000, 400)), generator.gamma(9, 1, (2000, 400))
    ratios = tops.mean(1) / bottoms.mean(1)
    found = ratio(*(over_images(torch.from_numpy(values[0])) for values in (tops, bottoms)))
    assert found.value == pytest.approx(ratios[0], rel=EXACT)
    # One sample's standard deviations are known to about 4 percent, those of 2000 repetitions to 1.6.
    assert found.error == pytest.approx(ratios.std(), rel=0.15)


def test_flat_metrics_have_their_error_after_them():
    values = flat({"a": Estimate(1.0, 0.1), "b": Estimate(2.0, 0.2)})
    assert list(values.items()) == [("a", 1.0), ("a_stderr", 0.1), ("b", 2.0), ("b_stderr", 0.2)]
