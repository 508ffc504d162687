"""What float32 costs: the metrics of the same weights, images and draws in float32 and in float64, end to end."""

import copy
from contextlib import contextmanager

import pytest
import torch

from vae.data.images import Split
from vae.evaluation import likelihood, reconstruction

# Relative to the likelihood, a sum over 784 pixels. A float32 has 24 bits: 6e-8 of each pixel's term and of the network
# outputs that it depends on, whose errors mostly cancel over pixels and more so over images. The densities of gray
# pixels are steeper: in the tails of a logistic, and where those of a continuous Bernoulli reach hundreds of nats.
# docs/reliability.md states these bounds.
BOUNDS = {"bernoulli": (5e-6, 1e-6), "gray": (5e-5, 5e-6)}
MODELS = {
    "default": {},
    "full covariance": {"posterior": "full_covariance"},
    "flows": {"posterior": "iaf", "prior": "spline", "flow_widths": [64]},
    "two levels": {"levels": "hvae"},
    "mixture": {"prior": "gaussian_mixture"},
    "continuous": {"likelihood": "continuous_bernoulli"},
    "logistic": {"likelihood": "discretized_logistic"},
    "labels": {"condition": "label", "network": "conv", "encoder_widths": [16, 32], "decoder_widths": [32, 16]},
}


@pytest.fixture
def split(digits):
    """Digits enlarged to the size of MNIST's images, as black and white pixels."""
    large = torch.nn.functional.interpolate(digits[:40].float(), size=(28, 28), mode="bilinear")
    return Split((large > 127).to(torch.uint8) * 255, torch.arange(40) % 10)


@pytest.fixture
def same_draws(monkeypatch):
    """Let standard normal numbers be those of float32 in every precision."""
    draw = torch.distributions.utils._standard_normal
    for module in (torch.distributions.normal, torch.distributions.multivariate_normal):
        monkeypatch.setattr(
            module, "_standard_normal", lambda shape, dtype, device: draw(shape, torch.float32, device).to(dtype)
        )
    fill = torch.Tensor.normal_
    monkeypatch.setattr(
        torch.Tensor, "normal_", lambda values: values.copy_(fill(torch.empty_like(values, dtype=torch.float32)))
    )


@contextmanager
def in_float64():
    """Let what the model casts on the way, and integers that are divided, become float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def measure(model, split):
    scores = likelihood.score(model, split, samples=20, seed=0)
    errors = reconstruction.measure(model, split, binary=True)
    return scores, {**likelihood.metrics(scores, 784, scores.elbo), **reconstruction.metrics(errors)}


@pytest.mark.parametrize("name", MODELS)
def test_metrics_in_float32_are_those_in_float64_within_the_bound(lean, make_model, split, same_draws, name):
    keys = {"latent_dim": 20, "encoder_widths": [256], "decoder_widths": [256], "activation": "silu"} | MODELS[name]
    # Weights twice as large as the initial ones make logits as extreme as those of a trained model.
    model = make_model((1, 28, 28), spread=2.0, **keys)
    accurate = copy.deepcopy(model).double()
    scores, metrics = measure(model, split)
    with in_float64():
        assert accurate.reconstruct(torch.rand(2, 1, 28, 28).double(), split.labels[:2]).dtype == torch.float64
        expected_scores, expected = measure(accurate, split)
    per_image, mean = BOUNDS["gray" if "likelihood" in keys else "bernoulli"]
    scale = abs(expected["test_nll"])
    for key in ("log_likelihood", "reconstruction_nll", "kl"):
        off = getattr(scores, key) - getattr(expected_scores, key)
        assert off.abs().max() <= per_image * scale, key
    for key in ("test_nll", "test_elbo", "reconstruction_nll", "kl"):
        assert metrics[key] == pytest.approx(expected[key], rel=0, abs=mean * scale), key
    for key in ("reconstruction_mse", "reconstruction_ssim"):  # pixels lie between 0 and 1
        assert metrics[key] == pytest.approx(expected[key], rel=0, abs=1e-6), key
