"""The graphs of model and guide, where Graphviz is installed, and what is said where it is not."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyro
import pytest

from tests.checkouts import ENVIRONMENT, ROOT
from tests.conftest import SMALL_MODEL
from tools import graph
from vae.model import make_model

needs_graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="there is no dot; apt-get install graphviz")

ARROWS = {
    "one": ({"z->x"}, {"x->z"}),
    "iwae": ({"z2->z1", "z1->x"}, {"x->z1", "z1->z2"}),
    "hvae": ({"z2->z1", "z2->x", "z1->x"}, {"x->z2", "x->z1", "z2->z1"}),
}


def arrows(svg: bytes) -> set[str]:
    return {title.replace("&#45;&gt;", "->") for title in re.findall(r"<title>(\w+&#45;&gt;\w+)</title>", svg.decode())}


@needs_graphviz
@pytest.mark.parametrize("condition", ["none", "label"])
@pytest.mark.parametrize("levels", ARROWS)
def test_the_graphs_show_what_depends_on_what(make_settings, levels: str, condition: str) -> None:
    pytest.importorskip("graphviz")
    settings = make_settings(model={**SMALL_MODEL, "levels": levels, "condition": condition}).model
    pyro.settings.set(module_local_params=True)
    drawn = graph.draw(make_model(settings, (1, 8, 8), 10))
    assert (arrows(drawn["model"]), arrows(drawn["guide"])) == ARROWS[levels]


@pytest.mark.slow
def test_without_graphviz_it_ends_with_one_message_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.graph", str(tmp_path / "graphs")]
    environment = {**ENVIRONMENT, "PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: dot.*: not found; install Graphviz .*\n", done.stderr)
    assert not (tmp_path / "graphs").exists()
