"""What a model says to inputs that are wrong, and that its Pyro programs ask for nothing."""

import numpy as np
import pytest
import torch

from vae.model import inputs, saving

IMAGES, LABELS = torch.rand(3, 1, 8, 8), torch.tensor([0, 4, 9])
WRONG_IMAGES = [
    (np.zeros((3, 1, 8, 8), np.float32), TypeError, r"images: got numpy\.ndarray, expected a torch\.Tensor"),
    ([[0.0]], TypeError, r"images: got builtins\.list, expected a torch\.Tensor"),
    (torch.zeros(3, 1, 8, 8, dtype=torch.uint8), TypeError, r"images: .*; divide 8-bit images by 255$"),
    (torch.zeros(3, 1, 8, 8, dtype=torch.float64), TypeError, r"images: .*; convert them with \.to\(torch\.float32\)$"),
    (torch.rand(3, 8, 8), ValueError, r"images: got shape \(3, 8, 8\), expected \(n, 1, 8, 8\)"),
    (torch.rand(1, 8, 8), ValueError, r"images: got shape \(1, 8, 8\), expected \(n, 1, 8, 8\)"),
    (torch.rand(3, 3, 8, 8), ValueError, r"images: got shape \(3, 3, 8, 8\), expected \(n, 1, 8, 8\)"),
    (torch.rand(3, 1, 28, 28), ValueError, r"images: got shape \(3, 1, 28, 28\), expected \(n, 1, 8, 8\)"),
    (torch.rand(0, 1, 8, 8), ValueError, "images: got an empty batch"),
    (255 * IMAGES.ceil(), ValueError, "images: got values from 255 to 255, expected from 0 to 1"),
    (IMAGES - 0.5 - IMAGES.min(), ValueError, r"images: got values from -0\.5 to "),
    (IMAGES.where(IMAGES.min() < IMAGES, torch.nan), ValueError, "images: got NaN among the values"),
    (IMAGES.where(IMAGES.min() < IMAGES, torch.inf), ValueError, "images: got values from .* to inf"),
]
WRONG_LABELS = [
    (None, ValueError, "labels: missing; the model is conditional: give the images' labels too"),
    ([0, 4, 9], TypeError, r"labels: got builtins\.list, expected a tensor of type torch\.int64"),
    (np.array([0, 4, 9]), TypeError, r"labels: got numpy\.ndarray, expected a tensor of type torch\.int64"),
    (LABELS.float(), TypeError, r"labels: got a tensor of type torch\.float32, expected a tensor of type torch\.int64"),
    (LABELS[:2], ValueError, r"labels: got shape \(2,\), expected \(3,\)"),
    (LABELS[:, None], ValueError, r"labels: got shape \(3, 1\), expected \(3,\)"),
    (LABELS + 1, ValueError, "labels: got values from 1 to 10, expected from 0 to 9"),
    (LABELS - 1, ValueError, "labels: got values from -1 to 8, expected from 0 to 9"),
]
WRONG_LATENTS = [
    (np.zeros((2, 3), np.float32), TypeError, r"latents: got numpy\.ndarray"),
    (torch.zeros(2, 3, dtype=torch.int64), TypeError, r"latents: .*; convert them with \.to\(torch\.float32\)$"),
    (torch.zeros(2, 4), ValueError, r"latents: got shape \(2, 4\), expected \(\.\.\., 3\)"),
    (torch.zeros(()), ValueError, r"latents: got shape \(\), expected \(\.\.\., 3\)"),
    (torch.zeros(0, 3), ValueError, r"latents: got shape \(0, 3\)"),
    (torch.full((2, 3), torch.nan), ValueError, "latents: got values that are not finite"),
]


@pytest.mark.parametrize("method", ["encode", "represent", "reconstruct"])
@pytest.mark.parametrize(("images", "kind", "message"), WRONG_IMAGES, ids=[message for _, _, message in WRONG_IMAGES])
def test_wrong_images_are_refused_in_one_sentence(make_model, method, images, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        getattr(make_model(), method)(images)


@pytest.mark.parametrize(("labels", "kind", "message"), WRONG_LABELS, ids=[message for _, _, message in WRONG_LABELS])
def test_wrong_labels_are_refused_in_one_sentence(make_model, labels, kind, message):
    model = make_model(condition="label")
    for call in (
        lambda: model.encode(IMAGES, labels),
        lambda: model.represent(IMAGES, labels),
        lambda: model.reconstruct(IMAGES, labels),
        lambda: model.decode(torch.randn(3, 3), labels),
        lambda: model.sample(3, 0, labels),
    ):
        with pytest.raises(kind, match=f"^{message}"):
            call()


@pytest.mark.parametrize(("latents", "kind", "message"), WRONG_LATENTS, ids=[m for _, _, m in WRONG_LATENTS])
def test_wrong_latents_are_refused_in_one_sentence(make_model, latents, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        make_model().decode(latents)


@pytest.mark.parametrize("levels", ["one", "iwae", "hvae"])
def test_all_arrangements_of_levels_check(make_settings, levels):
    sizes = {"latent_dim": 3, "top_dim": 2, "encoder_widths": [4], "decoder_widths": [4], "inner_widths": [4]}
    settings = make_settings(model=sizes | {"levels": levels, "prior": "standard_normal"}).model
    model = saving.make_model(settings, (1, 8, 8), 10)
    for method in (model.encode, model.represent, model.reconstruct):
        with pytest.raises(TypeError, match=r"images: got torch\.uint8"):
            method(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("n", [0, -1])
def test_at_least_one_draw_is_asked_for(make_model, n):
    model = make_model()
    for call in (
        lambda: model.sample(n, 0),
        lambda: model.draw_prior(n, 0),
        lambda: model.draw_posterior(IMAGES, n, 0),
    ):
        with pytest.raises(ValueError, match=f"n: got {n}, expected at least 1"):
            call()


def test_right_inputs_pass_and_labels_may_broadcast_over_draws(make_model):
    model = make_model(condition="label")
    assert model.reconstruct(IMAGES, LABELS).shape == (3, 1, 8, 8)
    assert model.decode(torch.randn(2, 3, 3), LABELS).shape == (2, 3, 1, 8, 8)
    assert model.sample(3, 0, LABELS[:1]).shape == (3, 1, 8, 8)
    assert model.draw_posterior(IMAGES, 2, 0, LABELS).shape == (2, 3, 3)
    assert make_model().reconstruct(torch.tensor([0.0, 1.0]).repeat(32).view(1, 1, 8, 8)).shape == (1, 1, 8, 8)


def test_the_programs_and_what_evaluation_calls_check_no_values(lean, make_model, monkeypatch):
    def refuse(*_):
        raise AssertionError("values were read")

    model = make_model(condition="label")
    monkeypatch.setattr(torch.Tensor, "__bool__", refuse)
    model.model(IMAGES, LABELS)
    model.guide(IMAGES, LABELS)
    model.image_given(model.representation_given(IMAGES, LABELS), LABELS)
    model.draw_posterior(IMAGES, 2, 0, LABELS)
    model.draw_prior(3, 0, LABELS)
    with pytest.raises(AssertionError, match="values were read"):
        model.encode(IMAGES, LABELS)


def test_another_device_is_named():
    with pytest.raises(ValueError, match="images: on meta, but the model is on cpu"):
        inputs.check_images(IMAGES.to("meta"), (1, 8, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="labels: on meta, but the model is on cpu"):
        inputs.check_labels(LABELS.to("meta"), 10, torch.Size([3]), torch.zeros(1))
