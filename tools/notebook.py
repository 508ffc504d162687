"""Execute docs/introduction.py as a notebook: `python -m tools.notebook` writes docs/introduction.ipynb.

Also writes the picture that the tutorial takes from it. Needs the extra `notebook`.
"""

import os
from base64 import b64decode
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode, write

ROOT = Path(__file__).resolve().parents[1]
SOURCE, NOTEBOOK = ROOT / "docs/introduction.py", ROOT / "docs/introduction.ipynb"
MANIFOLD = ROOT / "docs/pictures/introduction-manifold.png"
LONGEST = 120  # seconds that one cell may take


def from_source() -> NotebookNode:
    """The notebook that the text source describes, without outputs."""
    notebook = jupytext.read(SOURCE)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # else drawn at random
    return notebook


def execute(notebook: NotebookNode) -> None:
    """Run all cells in a fresh kernel started in docs/, with this checkout's code, and keep their outputs.

    Raises:
        CellExecutionError: a cell failed; the message shows the cell and the error.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    client = NotebookClient(
        notebook, timeout=LONGEST, record_timing=False, resources={"metadata": {"path": str(SOURCE.parent)}}
    )
    client.execute(env={**os.environ, "PYTHONPATH": path})


def main() -> None:
    """Write the notebook, and the picture of its cell with the tag `manifold`."""
    notebook = from_source()
    execute(notebook)
    (cell,) = [cell for cell in notebook.cells if "manifold" in cell.metadata.get("tags", [])]
    (output,) = cell.outputs
    MANIFOLD.write_bytes(b64decode(output.data["image/png"]))
    write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
