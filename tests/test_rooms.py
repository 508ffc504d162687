"""The rooms of vae/: which may import which, and that none of them speaks of the pipeline around them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VAE = ROOT / "vae"
# Below all rooms, with the files that lie in vae/ itself.
GROUND = {"settings", *(path.stem for path in VAE.glob("*.py"))}
# What each room may import besides the ground and itself.
BELOW = {
    "sources": set(),
    "data": set(),
    "model": set(),
    "training": {"data", "model"},
    "evaluation": {"data", "model"},
    "pictures": {"data", "model"},
    "report": {"evaluation", "pictures"},
}
FILES = sorted(path.relative_to(ROOT).as_posix() for path in VAE.rglob("*.py"))
# Words of the pipeline: its commands, its files and its environment variables.
PIPELINE = re.compile(r"\bdvc\b|\bmake [a-z]+`|`make\b|params\.yaml|MNIST_MIRROR", re.IGNORECASE)


def room(path):
    return Path(path).parts[1].removesuffix(".py")


def imported(source):
    """The modules that the import statements anywhere in a source name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from vae import files` names a module, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(path, source):
    """The imports of a file in vae/ that lead up, or across."""
    allowed = GROUND | BELOW.get(room(path), set()) | {room(path)}
    modules = [name.split(".") for name in imported(source)]
    ours = [parts for parts in modules if parts[0] in ("vae", "stages", "tools", "tests", "benchmarks")]
    return [".".join(parts) for parts in ours if parts[0] != "vae" or parts[1] not in allowed]


def literals(source):
    """The strings in a module's code without its docstrings; f-strings piece by piece."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    return [node.value for node in constants if isinstance(node.value, str)]


def test_every_folder_of_the_library_is_a_room():
    assert {path.parent.name for path in VAE.glob("*/__init__.py")} == BELOW.keys() | {"settings"}


@pytest.mark.parametrize("path", [path for path in FILES if not path.endswith("__init__.py")])
def test_every_file_has_its_tests_in_the_same_place(path):
    inside = Path(path).relative_to("vae")
    assert (ROOT / "tests" / inside.parent / f"test_{inside.name}").exists()


@pytest.mark.parametrize("path", FILES)
def test_imports_run_one_way(path):
    assert wrong_imports(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("vae/model/vae.py", "from vae.training.step import Step"),
        ("vae/data/images.py", "def f():\n    from vae import model"),
        ("vae/files.py", "import vae.data.images"),
        ("vae/settings/sections.py", "from vae.model import VAE"),
        ("vae/evaluation/samples.py", "from vae.pictures import PICTURES"),
        ("vae/report/page.py", "from stages import run"),
    ],
)
def test_imports_the_other_way_would_be_seen(path, source):
    assert len(wrong_imports(path, source)) == 1


@pytest.mark.parametrize("path", FILES)
def test_no_message_of_the_library_speaks_of_the_pipeline(path):
    assert [text for text in literals((ROOT / path).read_text()) if PIPELINE.search(text)] == []


@pytest.mark.parametrize("path", sorted(path.name for path in VAE.glob("report/*.html")))
def test_nor_does_its_page(path):
    assert not PIPELINE.search((VAE / "report" / path).read_text())


@pytest.mark.parametrize(
    "source",
    ['f"{path}: run `dvc repro`"', 'x = "see params.yaml"', 'y("or `make demo`")', '"".join(["MNIST_MIRROR"])'],
)
def test_words_of_the_pipeline_would_be_seen(source):
    assert any(PIPELINE.search(text) for text in literals(f"message = {source}"))
