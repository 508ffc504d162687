"""Draw the graphs of the model p(x, z) and of its guide q(z | x): `python -m tools.graph [FOLDER]`.

They show data/model.safetensors or, if there is none yet, the model that params.yaml describes. Graphviz must be
installed, the program and Python's package.
"""

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from vae.errors import InputError
from vae.files import replacing
from vae.model import VAE, load, make_model
from vae.settings import load_settings

MODEL = Path("data/model.safetensors")
# Only the graph's structure is drawn, which does not depend on the size or number of images.
IMAGE_SHAPE, IMAGES, CLASSES = (1, 28, 28), 2, 10


class Data(dist.Delta):
    """The images as they are, under a name of their own: Pyro leaves a `Delta` out of what others depend on."""


def read_model() -> VAE:
    """The trained model if there is one, else an untrained one of the same structure."""
    return (
        load(MODEL) if MODEL.exists() else make_model(load_settings("params.yaml").model, IMAGE_SHAPE, CLASSES).eval()
    )


def draw(model: VAE) -> dict[str, bytes]:
    """The graphs `model` and `guide` as SVG files.

    Raises:
        InputError: Graphviz is not installed.
    """
    missing = [name for name in ("dot", "graphviz") if not _is_there(name)]
    if missing:
        raise InputError(
            f"{' and '.join(missing)}: not found; install Graphviz (apt-get install graphviz, brew install graphviz) "
            "and its Python package (pip install graphviz)"
        )
    images = torch.zeros(IMAGES, *model.image_shape)
    labels = torch.zeros(IMAGES, dtype=torch.int64)
    programs = {"model": model.model, "guide": _given_images(model.guide)}
    return {name: _svg(program, images, labels) for name, program in programs.items()}


def _is_there(name: str) -> bool:
    return shutil.which(name) is not None if name == "dot" else importlib.util.find_spec(name) is not None


def _given_images(guide: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor, Tensor], None]:
    """The guide with the images as a site, since Pyro does not draw plain arguments."""

    def given(images: Tensor, labels: Tensor) -> None:
        with pyro.plate("images", len(images)):
            x = pyro.sample("x", Data(images, event_dim=3))
        with poutine.block(hide=["images"]):  # the guide's own plate, which is the same one
            guide(x, labels)

    return given


def _svg(program: Callable[[Tensor, Tensor], None], images: Tensor, labels: Tensor) -> bytes:
    graph = pyro.render_model(program, model_args=(images, labels), render_distributions=True)
    graph.attr(rankdir="LR", bgcolor="white")
    graph.node("x", fillcolor="gray")  # observed in both, though nothing in Pyro depends on an observed site
    return graph.pipe(format="svg")


def main() -> None:
    """Write one file for each graph."""
    parser = argparse.ArgumentParser(prog="python -m tools.graph", description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/pictures"), help="where the files go")
    folder = parser.parse_args().folder
    # So that the graph shows the random variables and not every weight.
    pyro.settings.set(module_local_params=True)
    try:
        drawn = draw(read_model())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for name, svg in drawn.items():
        with replacing(folder / f"graph-{name}.svg") as file:
            file.write(svg)
        print(folder / f"graph-{name}.svg")


if __name__ == "__main__":
    main()
