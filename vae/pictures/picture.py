"""A picture's entry: its name, what it shows, how to read it, when it applies and how it is drawn."""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from vae.pictures.results import Results


class Picture(NamedTuple):
    """A picture that the plot stage draws and the report explains.

    Attributes:
        name: the name of its file, without the ending.
        group: the key of the report's section that it belongs to.
        title: its heading in the report.
        shows: what it shows, as the image's alternative text.
        look: how to read it.
        draw: draws the figure from a run's results.
        applies: whether a run has this picture.
    """

    name: str
    group: str
    title: str
    shows: str
    look: str
    draw: Callable[[Results], Figure]
    applies: Callable[[Results], bool]


def picture(
    group: str, title: str, shows: str, look: str, applies: Callable[[Results], bool] = lambda results: True
) -> Callable[[Callable[[Results], Figure]], Picture]:
    """Turn a function that draws a run's results into a `Picture` with the function's name."""

    def make(draw: Callable[[Results], Figure]) -> Picture:
        return Picture(draw.__name__, group, title, shows, look, draw, applies)

    return make
