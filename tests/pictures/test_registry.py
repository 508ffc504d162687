"""All pictures together: their entries, the look that they share, and that a run's results are enough to draw them."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from tests.drawing import CAPTION, FASHION, assert_apart, make_history, make_images, make_points, render
from vae.data.images import Split
from vae.pictures import PICTURES
from vae.pictures.embedding import embedding_by_class_figure, embedding_figure, embedding_thumbnails_figure
from vae.pictures.latent_space import interpolations_figure, manifold_figure, traversals_figure
from vae.pictures.measures import confusion_figure, error_by_class_figure, kl_per_dimension_figure
from vae.pictures.reconstructions import (
    reconstructions_by_epoch_figure,
    reconstructions_extremes_figure,
    reconstructions_figure,
)
from vae.pictures.results import Results
from vae.pictures.samples import samples_by_class_figure, samples_figure, samples_neighbors_figure
from vae.pictures.training import elbo_figure
from vae.pictures.uncertainty import uncertainty_figure


def make_errors(labels):
    random = np.random.default_rng(0)
    return {
        name: random.normal(mean, mean / 9, len(labels)) for name, mean in (("nll", 90), ("mse", 0.02), ("ssim", 0.8))
    }


def draw_all(classes=FASHION, side=28, splits=("train", "validation")):
    count = len(classes)
    images, probabilities = make_images(count, 6, side, side), make_images(3, count, side, side)
    binary = (images > 0.5).astype(float)
    extremes, points = make_images(2, count, 2, side, side), make_points(classes)
    labels = np.arange(1000) % count
    row, square = images[:, 0], make_images(21, 21, side, side)
    steps, kl = np.linspace(-3, 3, 13), np.linspace(3, 0, 40)
    return {
        "reconstructions": reconstructions_figure(images, binary, images**2, classes, CAPTION),
        "reconstructions_extremes": reconstructions_extremes_figure(
            extremes, extremes > 0.5, extremes**2, 1234.5 * extremes[..., 0, 0, 0] - 99, classes, CAPTION
        ),
        "reconstructions_by_epoch": reconstructions_by_epoch_figure(
            row, binary[:, 0], probabilities, [1, 10, 30], classes, CAPTION
        ),
        "uncertainty": uncertainty_figure(row, row, row / 2, row / 2, classes, CAPTION),
        "samples": samples_figure(make_images(50, side, side), CAPTION),
        "samples_by_class": samples_by_class_figure(probabilities, [name[:4] for name in classes], CAPTION),
        "samples_neighbors": samples_neighbors_figure(*make_images(2, 50, side, side), np.arange(50), CAPTION),
        "interpolations": interpolations_figure(row, make_images(count, 11, side, side), row, True, CAPTION),
        "traversals": traversals_figure(
            make_images(10, 13, side, side), range(10), kl[:10], steps, classes[0], CAPTION
        ),
        "manifold": manifold_figure(
            square, np.linspace(-2, 2, 21), np.linspace(2, -2, 21), "the prior's quantiles", None, CAPTION
        ),
        "embedding": embedding_figure(points, classes, "tsne", CAPTION),
        "embedding_by_class": embedding_by_class_figure(points, classes, "tsne", CAPTION),
        "embedding_thumbnails": embedding_thumbnails_figure(
            points, make_images(len(points), side, side), classes, "tsne", CAPTION
        ),
        "kl_per_dimension": kl_per_dimension_figure(kl, 30, CAPTION),
        "elbo": elbo_figure(make_history(30, splits), CAPTION),
        "error_by_class": error_by_class_figure(make_errors(labels), labels, classes, CAPTION),
        "confusion": confusion_figure(labels, labels[::-1], classes, CAPTION),
    }


def make_results(model, plot):
    """What the stages leave of a run on 40 images of 4 classes, all made up."""
    random, count, classes = np.random.default_rng(0), 40, ["a", "b", "c", "d"]
    shape, labels = model.image_shape, np.arange(count) % len(classes)
    images = torch.from_numpy(random.integers(0, 256, (count, *shape), dtype=np.uint8))
    return Results(
        model=model.eval().requires_grad_(False),
        test=Split(images=(images > 127).to(torch.uint8) * 255, labels=torch.from_numpy(labels), originals=images),
        classes=classes,
        caption=CAPTION,
        snapshots={
            "indices": np.arange(4),
            "epochs": np.array([1, 3]),
            "probabilities": random.random((2, len(classes), *shape)),
        },
        latents={
            "mean": random.normal(size=(count, model.latent_dim)).astype(np.float32),
            "predicted": labels[::-1].copy(),
            "kl_per_dimension": random.random(model.latent_dim),
            **{name: random.random(count) for name in ("nll", "reconstruction_nll", "mse", "ssim")},
        },
        samples={
            "samples": np.zeros((20, *shape), np.uint8),
            "neighbors": np.zeros((20, *shape), np.uint8),
            "distances": random.random(20),
        },
        history=make_history(3),
        points=make_points(classes, count),
        method="pca",
        active_units=1,
        settings=plot,
    )


def test_every_picture_has_its_words_and_a_name_of_its_own():
    assert len({picture.name for picture in PICTURES}) == len(PICTURES)
    for picture in PICTURES:
        assert picture.name.isidentifier()
        for words in (picture.title, picture.shows, picture.look):
            assert words.strip() == words != ""
        assert picture.shows.endswith(".") and picture.look.endswith("."), picture.name


@pytest.mark.parametrize(
    ("keys", "left_out"),
    [
        ({"latent_dim": 2, "condition": "label"}, set()),
        ({"latent_dim": 2}, {"samples_by_class"}),
        ({"latent_dim": 3}, {"samples_by_class", "manifold"}),
    ],
)
def test_a_runs_results_are_enough_to_draw_every_picture_that_applies(make_model, make_settings, keys, left_out):
    results = make_results(make_model(**keys), make_settings(plot={"samples": 7}).plot)
    drawn = {picture.name: picture.draw(results) for picture in PICTURES if picture.applies(results)}
    assert drawn.keys() == {picture.name for picture in PICTURES} - left_out
    for name, figure in drawn.items():
        assert figure.texts[1].get_text() == CAPTION, name


@pytest.mark.parametrize(
    ("classes", "side", "splits"),
    [(FASHION, 28, ("train", "validation")), (["0", "1", "2"], 8, ("train",)), (["0", "1"], 28, ("train",))],
)
def test_every_picture_has_its_heading_and_keeps_inside_its_edges(classes, side, splits):
    drawn = draw_all(classes, side, splits)
    assert drawn.keys() == {picture.name for picture in PICTURES}
    titles = [figure.texts[0].get_text() for figure in drawn.values()]
    assert len(set(titles)) == len(drawn)
    for name, figure in drawn.items():
        title, caption = figure.texts[:2]
        assert caption.get_text() == CAPTION
        assert figure.get_facecolor() == (1, 1, 1, 1)
        figure.draw_without_rendering()
        labels = [label for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for label in axis.get_ticklabels()]
        assert_apart([title, caption, *(labels if figure.axes[0].images else [])])
        ink, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert ink.x0 >= 0 and ink.y0 >= 0 and ink.x1 <= width and ink.y1 <= height, f"{name}: {ink}"
        assert max(ink.x0, ink.y0, width - ink.x1, height - ink.y1) < 0.2, f"{name} wastes space: {ink}"


def test_same_inputs_give_the_same_bytes_and_leave_no_figure_open():
    first, second = (draw_all(["0", "1", "2"], side=8) for _ in range(2))
    for name in first:
        assert render(first[name]) == render(second[name]), name
    assert pyplot.get_fignums() == []
