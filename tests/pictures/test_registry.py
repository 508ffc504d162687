"""All pictures together: their entries, the look that they share, and that a run's results are enough to draw them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot

from tests.drawing import CAPTION, FASHION, assert_apart, make_history, make_points, render
from vae import pictures
from vae.data.images import Split
from vae.pictures import PICTURES
from vae.pictures.results import Results

ENTRY = r"(?sm)^@picture\(.*?^def (\w+)\("


def make_results(model, plot, classes=("a", "b", "c", "d"), count=40, splits=("train", "validation"), epochs=3):
    """What the stages leave of a run on `count` test images of these classes, all made up."""
    random, classes = np.random.default_rng(0), list(classes)
    shape, labels = model.image_shape, np.arange(count) % len(classes)
    images = torch.from_numpy(random.integers(0, 256, (count, *shape), dtype=np.uint8))
    return Results(
        model=model.eval().requires_grad_(False),
        test=Split(images=(images > 127).to(torch.uint8) * 255, labels=torch.from_numpy(labels), originals=images),
        classes=classes,
        caption=CAPTION,
        snapshots={
            "indices": np.arange(len(classes)),
            "epochs": np.array([1, epochs]),
            "probabilities": random.random((2, len(classes), *shape)),
        },
        latents={
            "mean": random.normal(size=(count, model.latent_dim)).astype(np.float32),
            "predicted": labels[::-1].copy(),
            "kl_per_dimension": random.random(model.latent_dim),
            **{name: random.random(count) for name in ("nll", "reconstruction_nll", "mse", "ssim")},
        },
        samples={
            "samples": np.zeros((100, *shape), np.uint8),
            "neighbors": np.zeros((100, *shape), np.uint8),
            "distances": random.random(100),
        },
        history=make_history(epochs, splits),
        points=make_points(classes, count),
        method="pca",
        active_units=1,
        settings=plot,
    )


def test_pictures_are_the_entries_of_all_files_of_the_folder():
    written = [path for path in Path(pictures.__file__).parent.glob("*.py") if path.stem != "picture"]
    entries = [
        name for path in sorted(written) for name in re.findall(ENTRY, path.read_text(), re.DOTALL | re.MULTILINE)
    ]
    assert [picture.name for picture in PICTURES] == entries != []


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


@pytest.fixture
def draw_all(make_model, make_settings):
    """Give a function: every picture of a run with these classes, images of this side and these splits."""
    plot = make_settings(plot={"samples": 50}).plot

    def draw(classes=FASHION, side=28, splits=("train", "validation")):
        # A conditional model of two dimensions, which has every picture there is.
        model = make_model((1, side, side), latent_dim=2, condition="label")
        results = make_results(model, plot, classes, 200, splits, 30)
        return {picture.name: picture.draw(results) for picture in PICTURES}

    return draw


@pytest.mark.parametrize(
    ("classes", "side", "splits"),
    [(FASHION, 28, ("train", "validation")), (["0", "1", "2"], 8, ("train",)), (["0", "1"], 28, ("train",))],
)
def test_every_picture_has_its_heading_and_keeps_inside_its_edges(draw_all, classes, side, splits):
    drawn = draw_all(classes, side, splits)
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


def test_same_inputs_give_the_same_bytes_and_leave_no_figure_open(draw_all):
    first, second = (draw_all(["0", "1", "2"], side=8) for _ in range(2))
    for name in first:
        assert render(first[name]) == render(second[name]), name
    assert pyplot.get_fignums() == []
