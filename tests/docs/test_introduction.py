"""The introductory notebook runs from a fresh kernel, and what is committed is what its source says."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.checkouts import ENVIRONMENT, ROOT

pytestmark = pytest.mark.slow

SOURCE, NOTEBOOK = ROOT / "docs/introduction.py", ROOT / "docs/introduction.ipynb"
COMMITTED = json.loads(NOTEBOOK.read_text())
JUPYTER = all(importlib.util.find_spec(name) for name in ("jupytext", "nbclient", "ipykernel", "ipywidgets"))
# Stands in for the three names that the source takes from Jupyter, so that it runs as a script.
AS_SCRIPT = f"""
import runpy, sys
from unittest.mock import MagicMock
sys.modules["IPython.display"], sys.modules["ipywidgets"] = MagicMock(), MagicMock()
sys.modules["IPython"] = MagicMock(version_info=(9, 0), get_ipython=lambda: None)  # which matplotlib asks, too
import matplotlib
matplotlib.use("agg")
runpy.run_path({str(SOURCE)!r})
"""


def cells(source: str) -> list[tuple[str, str]]:
    """The kind and the text of each cell of a source in jupytext's percent format."""
    _, *blocks = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)
    found = []
    for marks, block in zip(blocks[::2], blocks[1::2], strict=True):
        markdown = "[markdown]" in marks
        lines = [re.sub("^# ?", "", line) for line in block.splitlines()] if markdown else [block]
        found.append(("markdown" if markdown else "code", "\n".join(lines).strip()))
    return found


def outputs(kind: str) -> str:
    return json.dumps([cell["outputs"] for cell in COMMITTED["cells"] if cell["cell_type"] == kind])


def test_the_committed_notebook_is_made_from_its_source() -> None:
    committed = [(cell["cell_type"], "".join(cell["source"])) for cell in COMMITTED["cells"]]
    assert committed == cells(SOURCE.read_text()), "run `python -m tools.notebook`"


def test_the_committed_notebook_shows_its_pictures_without_a_kernel() -> None:
    code = [cell for cell in COMMITTED["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [kind for cell in code for output in cell["outputs"] for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 7
    assert "application/vnd.jupyter.widget-view+json" in kinds
    assert '"output_type": "error"' not in outputs("code")
    assert str(Path.home()) not in NOTEBOOK.read_text()
    assert NOTEBOOK.stat().st_size < 500_000


def test_the_tutorial_shows_the_notebooks_manifold() -> None:
    (cell,) = [cell for cell in COMMITTED["cells"] if "manifold" in cell["metadata"].get("tags", [])]
    (output,) = cell["outputs"]
    assert (
        b64decode("".join(output["data"]["image/png"]))
        == (ROOT / "docs/pictures/introduction-manifold.png").read_bytes()
    )
    assert "(pictures/introduction-manifold.png)" in (ROOT / "docs/tutorial.md").read_text()


def test_the_four_steps_by_hand_cost_what_pyro_says() -> None:
    by_hand, by_pyro = re.search(r"= ([\d.]+) nats per image.*by Pyro: ([\d.]+)", outputs("code")).groups()
    assert by_hand == by_pyro


def test_the_notebook_runs_from_a_fresh_kernel() -> None:
    command = "from tools.notebook import execute, from_source; execute(from_source())"
    before = os.times()
    subprocess.run(
        [sys.executable, "-c", command if JUPYTER else AS_SCRIPT],
        cwd=ROOT,
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    after = os.times()
    # Seconds of processor time on one thread, which other work on the machine does not lengthen as it does the wall's.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 60


@pytest.mark.skipif(not JUPYTER, reason="needs the extra `notebook`, which `make setup` installs")
def test_jupytext_reads_the_source_as_this_test_does() -> None:
    from tools.notebook import from_source

    assert [(cell.cell_type, cell.source) for cell in from_source().cells] == cells(SOURCE.read_text())


def test_the_diagram_is_whole_and_on_a_card_of_its_own() -> None:
    # A filled background makes the dark strokes readable on a dark page.
    picture = ElementTree.parse(ROOT / "docs/pictures/vae.svg").getroot()
    first = next(element for element in picture if element.tag.endswith("rect"))
    _, _, width, height = (float(number) for number in picture.get("viewBox").split())
    assert first.get("fill") == "#f8fafc"
    assert float(first.get("width")) >= width - 2
    assert float(first.get("height")) >= height - 2
    text = " ".join("".join(element.itertext()) for element in picture.iter() if element.tag.endswith("text"))
    assert re.findall(r"\d \w+", text)[:4] == ["1 encode", "2 sample", "3 decode", "4 backpropagate"]
