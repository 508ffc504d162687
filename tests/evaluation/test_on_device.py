"""What is measured of a model stays on its device: a CPU, a GPU, or CUDA tensors that compute nothing."""

import pytest
import torch

from tests.conftest import as_split
from tests.model import test_family
from vae.data.images import pixels
from vae.evaluation import classifier as judging
from vae.evaluation import evaluate, latent_space
from vae.evaluation.likelihood import score
from vae.evaluation.samples import generate, metrics, nearest
from vae.evaluation.uncertainty import Estimate
from vae.model import make_model
from vae.training.initialization import initialize
from vae.training.validation import mean_bound, mean_terms

N, CLASSES = test_family.N, test_family.CLASSES
FAMILY = pytest.mark.parametrize("choice", test_family.PAIRS, ids=lambda choice: "-".join(choice.values()))

parse = test_family.parse


def measure_all(model, test, training, settings, binary):
    """Everything that is measured of a model, and a few samples of it."""
    findings = evaluate.examine(model, test, training, binary, settings)
    terms = mean_terms(model, test, seed=1)
    return findings, terms, mean_bound(model, test, seed=1, particles=3), generate(model, 12, seed=0)


@pytest.fixture
def evaluate_settings(make_settings):
    return make_settings(evaluate={"importance_samples": 3}).evaluate


# --- CUDA tensors that compute nothing


def zeros(n, device):
    return as_split(torch.zeros(n, 1, 8, 8, dtype=torch.uint8, device=device))


@pytest.mark.slow
@FAMILY
def test_no_tensor_of_the_cpu_meets_one_of_the_device(
    lean, fake_cuda, parse, evaluate_settings, choice, monkeypatch, capsys
):
    monkeypatch.setattr(latent_space, "classify", lambda *arrays: [array.numpy() for array in arrays[:-1]])
    model = make_model(parse(choice).model, (1, 8, 8), CLASSES)
    with fake_cuda as device:
        model = model.to(device).requires_grad_(False)
        test, training = zeros(N, device), zeros(N, device)
        findings, _, _, samples = measure_all(model, test, training, evaluate_settings, model.likelihood.binary)
        assert all(array.shape for array in evaluate.arrays(findings._replace(classified=FOUND)).values())
        assert samples.device == device
        images = pixels(test.images, binarize=False)
        assert model.reconstruct(images, test.labels).device == device
        assert model.decode(model.represent(images, test.labels), test.labels).device == device


FOUND = latent_space.Classified(*[Estimate(0.5, 0.1)] * 4, torch.zeros(N, dtype=torch.int64).numpy())


def test_a_tensor_of_the_cpu_would_be_seen(fake_cuda):
    with fake_cuda as device, pytest.raises(RuntimeError, match=r"cuda:0.*cpu"):
        torch.ones(3, device=device) + torch.ones(3)


def test_samples_are_judged_on_the_device(lean, fake_cuda, monkeypatch):
    for name in ("frechet_distance", "frechet_error"):  # on the CPU, their course by values
        monkeypatch.setattr(f"vae.evaluation.samples.{name}", lambda *_: 0.0)
    classifier = judging.Classifier((1, 8, 8), CLASSES).eval().requires_grad_(False)
    with fake_cuda as device:
        images = zeros(30, device).images
        judged = judging.judge(classifier.to(device), images)
        assert judged.features.device == judged.probabilities.device == device
        assert nearest(images, images)[1].device == device
        metrics([judged] * 2, judged, judged, neighbors=3, seed=0)


# --- A CPU and a GPU


def black_and_white(digits):
    return (digits > 127).to(torch.uint8) * 255


@pytest.mark.slow
@FAMILY
def test_the_family_is_measured_on_a_cpu_and_a_gpu(device, parse, digits, evaluate_settings, choice):
    images, labels = black_and_white(digits[:60]), torch.arange(60) % CLASSES
    settings = parse(choice)
    model = make_model(settings.model, (1, 8, 8), CLASSES)
    initialize(model, images, settings.train)
    model.requires_grad_(False)
    pairs = zip(images.split(1), labels.split(1), strict=True)
    one_by_one = torch.cat([model.represent(image / 255, label) for image, label in pairs])
    split = as_split(images.to(device), labels.to(device))
    first, again = (measure_all(model.to(device), split, split, evaluate_settings, True) for _ in range(2))
    # Rounding of float32 in products of some ten terms.
    torch.testing.assert_close(first[0].means, one_by_one, rtol=1e-4, atol=1e-5)
    for ours, repeated in zip(first[0].scores, again[0].scores, strict=True):
        assert ours.isfinite().all()
        assert torch.equal(ours, repeated)
    assert first[1:3] == again[1:3]
    assert torch.equal(first[3], again[3])
    # Three draws of the same estimate: the bound of each image varies by some nats, its mean over 60 by less than one.
    assert score(model, split, 3, seed=5).log_likelihood.mean().item() == pytest.approx(first[2], abs=5)
