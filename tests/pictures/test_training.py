import numpy as np
import pandas as pd
import pytest

from tests.drawing import CAPTION, make_history
from vae.pictures.training import elbo_figure


@pytest.mark.parametrize("splits", [("train", "validation"), ("train",)])
@pytest.mark.parametrize("epochs", [1, 3, 50])
def test_elbo_draws_the_history(splits, epochs):
    history = make_history(epochs, splits)
    figure = elbo_figure(history, CAPTION)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(splits)
    terms = ["elbo", "reconstruction_nll", "kl"]
    for term, axes in zip(terms, figure.axes, strict=True):
        curves = {line.get_label(): line for line in axes.lines if line.get_label() in splits}
        assert list(curves) == list(splits)
        finals = {text.get_text() for text in axes.texts}
        low, high = axes.get_ylim()
        for split, line in curves.items():
            np.testing.assert_array_equal(line.get_xydata(), history[["epoch", f"{split}_{term}"]])
            final = history[f"{split}_{term}"].iloc[-1]
            assert f"{final:.2f}".replace("-", "\N{MINUS SIGN}") in finals
            assert low < final < high
        assert axes.get_ylabel() == "nats per image"
        assert all(tick == round(tick) for tick in axes.get_xticks()), "half an epoch"


def test_elbo_limits_do_not_depend_on_the_first_epochs_or_on_a_spike():
    history = make_history(50)
    calm = [axes.get_ylim() for axes in elbo_figure(history, CAPTION).axes]
    values = history.columns.drop("epoch")
    history.loc[0, values] *= 1000
    history.loc[30, values] *= 1000
    wild = [axes.get_ylim() for axes in elbo_figure(history, CAPTION).axes]
    for (low, high), (calm_low, calm_high) in zip(wild, calm, strict=True):
        assert high - low < 2 * (calm_high - calm_low)


def read_notes(figure):
    """The text about epochs off the axis in each panel."""
    return [[text.get_text() for text in axes.texts if "off the axis" in text.get_text()] for axes in figure.axes]


def test_elbo_names_the_epochs_that_lie_beyond_an_axis():
    history = make_history(50)
    figure = elbo_figure(history, CAPTION)
    down, up = "\N{DOWNWARDS ARROW}", "\N{UPWARDS ARROW}"
    for axes, notes, term, arrow in zip(
        figure.axes, read_notes(figure), ("elbo", "reconstruction_nll", "kl"), (down, up, down), strict=True
    ):
        low, high = axes.get_ylim()
        values = history[[f"train_{term}", f"validation_{term}"]]
        beyond = history["epoch"][((values < low) | (values > high)).any(axis=1)]
        assert list(beyond) == list(range(1, len(beyond) + 1))
        assert len(beyond) > 1
        assert notes == [f"{arrow} epochs 1\N{EN DASH}{len(beyond)} off the axis"]


@pytest.mark.parametrize(
    ("spikes", "expected"),
    [
        ([], []),
        ([20], ["epoch 20"]),
        ([20, 21, 40], ["epochs 20\N{EN DASH}21, 40"]),
        ([9, 20, 30, 40], ["4 epochs from 9 to 40"]),
    ],
)
def test_elbo_names_spikes_and_says_nothing_where_all_is_shown(spikes, expected):
    epochs = np.arange(1, 51)
    frame = {f"train_{term}": -100 - np.sin(epochs) for term in ("elbo", "reconstruction_nll", "kl")}
    history = pd.DataFrame({"epoch": epochs, **frame})
    history.loc[[spike - 1 for spike in spikes], "train_elbo"] = -1e4
    figure = elbo_figure(history, CAPTION)
    down = "\N{DOWNWARDS ARROW}"
    assert read_notes(figure) == [[f"{down} {words} off the axis" for words in expected], [], []]
    figure.draw_without_rendering()
    for axes in figure.axes:
        for text in axes.texts[1:]:
            box, panel = text.get_window_extent(), axes.get_window_extent()
            assert panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1
