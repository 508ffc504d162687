"""Charts of how good the model is: by epoch, by class, by latent dimension."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae.figures.layout import CAPTION_SIZE, HEADING, MARGIN, NOTE_SIZE, TEXT_SIZE, TITLE_SIZE, chart, text_width

TERMS = {
    "elbo": "ELBO (higher is better)",
    "reconstruction_nll": "Distortion: reconstruction NLL",
    "kl": r"Rate: KL$(q(z\,|\,x)\,\|\,p(z))$",
}
CURVES = {"train": {"color": "#0173b2"}, "validation": {"color": "#d55e00", "linestyle": "--"}}
ERRORS = {
    "nll": ("Negative log-likelihood", "nats, lower is better"),
    "mse": ("Squared error", "per pixel, lower is better"),
    "ssim": ("Structural similarity", "SSIM, higher is better"),
}
_MOST_NAMED_BARS = 50
_CELL = 44  # units


def elbo(history: pd.DataFrame, caption: str) -> Figure:
    """Show the ELBO and its two terms, rate and distortion, over the epochs.

    Args:
        history: a row an epoch; columns `epoch` and, in nats per image, `train_elbo`, `train_reconstruction_nll`
            and `train_kl`; with a validation split also the three that start with `validation_`.
        caption: the title's second line.
    """
    figure = chart(600, 315, "Evidence lower bound by epoch", caption)
    panels = figure.subplot_mosaic([["elbo", "reconstruction_nll"], ["elbo", "kl"]], width_ratios=[1.2, 1])
    for term, axes in panels.items():
        _draw_curves(axes, history, term)
    panels["reconstruction_nll"].set_xlabel(None)
    # Beside the title, as no corner of a panel stays free of curves in every training.
    lines = panels["elbo"].get_legend_handles_labels()
    figure.legend(*lines, loc="upper right", ncols=len(CURVES), frameon=False, fontsize=TEXT_SIZE, borderaxespad=0)
    return figure


def kl_per_dimension(kl: np.ndarray, active: int, caption: str) -> Figure:
    """Show how many nats each latent dimension carries, the largest first.

    Args:
        kl: each dimension's KL, averaged over images, in nats, of shape `(latent_dim,)`.
        active: the number of dimensions that depend on the image.
        caption: the title's second line.
    """
    order = np.argsort(-kl, kind="stable")
    # Not their sum: only under a standard normal prior is it the ELBO's KL.
    title = f"KL of each latent dimension taken alone: {active} of {len(kl)} units active"
    figure = chart(600, 270, title, caption)
    axes = figure.add_subplot()
    axes.bar(np.arange(len(kl)), kl[order], width=0.8, color=CURVES["train"]["color"])
    named = len(kl) <= _MOST_NAMED_BARS
    axes.set_xticks(np.arange(len(kl)) if named else [], order if named else None)
    axes.set_xlim(-0.6, max(len(kl), 8) - 0.4)
    axes.set_xlabel("latent dimension of z, the largest KL first", fontsize=TEXT_SIZE)
    axes.set_ylabel("nats per image", fontsize=TEXT_SIZE)
    axes.tick_params(axis="y", labelsize=TEXT_SIZE)
    axes.tick_params(axis="x", labelsize=NOTE_SIZE, length=0)
    _plain(axes, grid="y")
    return figure


def error_by_class(
    errors: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str], caption: str
) -> Figure:
    """Show each class's mean errors with their standard errors, and the means over all images.

    Args:
        errors: `nll` in nats, `mse` per pixel and `ssim`, each of shape `(n,)`; others are left out.
        labels: the images' classes, int64 of shape `(n,)`.
        classes: the classes' names.
        caption: the title's second line.
    """
    title = f"Errors on {len(labels):,} test images by class (bars: one standard error)"
    figure = chart(640, HEADING + 70 + 18 * len(classes), title, caption)
    panels = figure.subplots(1, len(ERRORS), sharey=True)
    for axes, (key, (name, unit)) in zip(panels, ERRORS.items(), strict=True):
        by_class = pd.Series(errors[key], dtype=float).groupby(labels)
        means = by_class.mean()
        # A class with a single image has no standard error.
        axes.errorbar(
            means,
            means.index,
            xerr=by_class.sem().fillna(0),
            fmt="o",
            markersize=4,
            capsize=3,
            color=CURVES["train"]["color"],
        )
        axes.axvline(errors[key].mean(), color=CURVES["validation"]["color"], linestyle="--", label="all images")
        axes.set_title(name, loc="left", fontsize=CAPTION_SIZE)
        axes.set_xlabel(unit, fontsize=TEXT_SIZE)
        axes.tick_params(labelsize=TEXT_SIZE)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.tick_params(axis="y", length=0)
        _plain(axes, grid="both")
    panels[0].set_yticks(range(len(classes)), classes)
    panels[0].set_ylim(len(classes) - 0.5, -0.5)
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="upper right", frameon=False, fontsize=TEXT_SIZE, borderaxespad=0.3)
    return figure


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], caption: str) -> Figure:
    """Show how many images of each class a classifier takes for each class, shaded by their share of the class.

    Args:
        labels: the images' classes, int64 of shape `(n,)`.
        predicted: the classifier's answers, of the same shape.
        classes: the classes' names.
        caption: the title's second line.
    """
    count = len(classes)
    table = np.zeros((count, count), dtype=int)
    np.add.at(table, (labels, predicted), 1)
    shares = table / table.sum(axis=1, keepdims=True).clip(min=1)

    title = f"Nearest neighbours in the latent space: {np.mean(labels == predicted):.1%} right"
    longest = max(text_width(name, TEXT_SIZE) for name in classes)
    upright = longest > _CELL
    width = max(count * _CELL + longest + 40, text_width(title, TITLE_SIZE, "bold") + 2 * MARGIN)
    figure = chart(width, HEADING + count * _CELL + (longest if upright else 15) + 50, title, caption)
    axes = figure.add_subplot()
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # so that a few mistakes among many images can be seen
    axes.imshow(shares, cmap="Blues", norm=norm)
    for row, column in zip(*np.nonzero(table), strict=True):
        shade = "white" if norm(shares[row, column]) > 0.6 else "black"
        axes.text(column, row, f"{table[row, column]}", ha="center", va="center", fontsize=TEXT_SIZE, color=shade)
    axes.set_xticks(range(count), classes, rotation=90 if upright else 0)
    axes.set_yticks(range(count), classes)
    axes.set_xlabel("class of the nearest training images", fontsize=TEXT_SIZE)
    axes.set_ylabel("class", fontsize=TEXT_SIZE)
    axes.tick_params(length=0, labelsize=TEXT_SIZE)
    axes.spines[:].set_visible(False)
    return figure


def _draw_curves(axes: Axes, history: pd.DataFrame, term: str) -> None:
    epochs = history["epoch"]
    curves = {split: history[f"{split}_{term}"] for split in CURVES if f"{split}_{term}" in history}
    lowest = min(curves, key=lambda split: curves[split].iloc[-1])
    for split, values in curves.items():
        color, final = CURVES[split]["color"], (epochs.iloc[-1], values.iloc[-1])
        axes.plot(epochs, values, label=split, **CURVES[split])
        axes.plot(*final, marker="o", markersize=4, color=color)
        # The lower number hangs and the upper one stands, so that two which are close do not overlap.
        side = "center" if len(curves) == 1 else "top" if split == lowest else "bottom"
        axes.annotate(
            f"{final[1]:.2f}".replace("-", "\N{MINUS SIGN}"),
            final,
            xytext=(6, 0),
            textcoords="offset points",
            va=side,
            color=color,
            fontsize=TEXT_SIZE,
        )
    axes.set_ylim(_robust_limits(list(curves.values())))
    axes.set_title(TERMS[term], loc="left", fontsize=CAPTION_SIZE)
    axes.set_xlabel("epoch", fontsize=TEXT_SIZE)
    axes.set_ylabel("nats per image", fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    _plain(axes, grid="both")


def _robust_limits(curves: Sequence[pd.Series]) -> tuple[float, float]:
    """Find y-limits that hold the middle four fifths of all values and every final one."""
    values = [*np.quantile(np.concatenate(curves), [0.1, 0.9]), *(curve.iloc[-1] for curve in curves)]
    margin = max(0.1 * (max(values) - min(values)), 0.5)
    return min(values) - margin, max(values) + margin


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
