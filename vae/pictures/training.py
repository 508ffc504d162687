"""The curves of training."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from vae.pictures.captions import number
from vae.pictures.layout import BLUE, CAPTION_SIZE, NOTE_SIZE, ORANGE, TEXT_SIZE, chart, plain
from vae.pictures.picture import picture
from vae.pictures.results import Results

_TERMS = {
    "elbo": "ELBO (higher is better)",
    "reconstruction_nll": "Distortion: reconstruction NLL",
    "kl": r"Rate: KL$(q(z\,|\,x)\,\|\,p(z))$",
}
_CURVES = {"train": {"color": BLUE}, "validation": {"color": ORANGE, "linestyle": "--"}}


@picture(
    group="likelihood",
    title="ELBO by epoch",
    shows="Line charts of the ELBO, its rate and its distortion over the epochs, for training and validation images.",
    look="The two curves should rise together and level off. A falling validation curve indicates overfitting. "
    "The axes show where training settles; epochs beyond them are listed.",
)
def elbo(results: Results) -> Figure:
    """The ELBO's curves."""
    return elbo_figure(results.history, results.caption)


def elbo_figure(history: pd.DataFrame, caption: str) -> Figure:
    """Show the ELBO and its two terms, rate and distortion, over the epochs.

    Args:
        history: one row per epoch; columns `epoch` and, in nats per image, `train_elbo`, `train_reconstruction_nll`
            and `train_kl`; with a validation split also the three that start with `validation_`.
        caption: the title's second line.
    """
    figure = chart(600, 315, "Evidence lower bound by epoch", caption)
    panels = figure.subplot_mosaic([["elbo", "reconstruction_nll"], ["elbo", "kl"]], width_ratios=[1.2, 1])
    for term, axes in panels.items():
        _draw_curves(axes, history, term)
    panels["reconstruction_nll"].set_xlabel(None)
    # Next to the title, as no corner of a panel is free of curves in every run.
    lines = panels["elbo"].get_legend_handles_labels()
    figure.legend(*lines, loc="upper right", ncols=len(_CURVES), frameon=False, fontsize=TEXT_SIZE, borderaxespad=0)
    return figure


def _draw_curves(axes: Axes, history: pd.DataFrame, term: str) -> None:
    epochs = history["epoch"]
    curves = {split: history[f"{split}_{term}"] for split in _CURVES if f"{split}_{term}" in history}
    lowest = min(curves, key=lambda split: curves[split].iloc[-1])
    for split, values in curves.items():
        color, final = _CURVES[split]["color"], (epochs.iloc[-1], values.iloc[-1])
        axes.plot(epochs, values, label=split, **_CURVES[split])
        axes.plot(*final, marker="o", markersize=4, color=color)
        # The lower number goes below its curve and the upper one above, so that close ones do not overlap.
        side = "center" if len(curves) == 1 else "top" if split == lowest else "bottom"
        axes.annotate(
            number(final[1], 2),
            final,
            xytext=(6, 0),
            textcoords="offset points",
            va=side,
            color=color,
            fontsize=TEXT_SIZE,
        )
    axes.set_ylim(_robust_limits(list(curves.values())))
    axes.set_title(_TERMS[term], loc="left", fontsize=CAPTION_SIZE)
    axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    axes.set_ylabel("nats per image", fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    plain(axes, grid="both")
    _name_what_is_cut(axes, epochs.to_numpy(), np.stack(list(curves.values())))


def _robust_limits(curves: Sequence[pd.Series]) -> tuple[float, float]:
    """The y-limits that hold the middle four fifths of all values and every final one."""
    values = [*np.quantile(np.concatenate(curves), [0.1, 0.9]), *(curve.iloc[-1] for curve in curves)]
    margin = max(0.1 * (max(values) - min(values)), 0.5)
    return min(values) - margin, max(values) + margin


def _name_what_is_cut(axes: Axes, epochs: np.ndarray, values: np.ndarray) -> None:
    """Say which epochs, of values (curves, epochs), lie beyond the y-axis, near where the curves leave it."""
    low, high = axes.get_ylim()
    for cut, end, side, arrow in (
        ((values < low).any(axis=0), low, "bottom", "\N{DOWNWARDS ARROW}"),
        ((values > high).any(axis=0), high, "top", "\N{UPWARDS ARROW}"),
    ):
        if cut.any():
            runs = _runs(epochs[cut])
            start, last = runs[0][1], epochs[-1]
            fits = start < last / 4  # otherwise the text ends where the curves do
            axes.annotate(
                f"{arrow} {_span(epochs[cut], runs)} off the axis",
                (start if fits else last, end),
                xytext=(6 if fits else 0, 2 if side == "bottom" else -2),
                textcoords="offset points",
                ha="left" if fits else "right",
                va=side,
                color="0.35",
                fontsize=NOTE_SIZE,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )


def _runs(epochs: np.ndarray) -> list[tuple[int, int]]:
    """The first and the last number of each run of consecutive ones."""
    parts = np.split(epochs, np.flatnonzero(np.diff(epochs) > 1) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts]


def _span(epochs: np.ndarray, runs: Sequence[tuple[int, int]]) -> str:
    if len(runs) > 2:
        return f"{len(epochs)} epochs from {epochs[0]} to {epochs[-1]}"
    names = [str(first) if first == last else f"{first}\N{EN DASH}{last}" for first, last in runs]
    return f"epoch{'s' if len(epochs) > 1 else ''} {', '.join(names)}"
