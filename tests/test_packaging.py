"""What is installed: the library alone, with few dependencies; the pipeline's packages are an extra."""

import email
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import vae
from tests.checkouts import ENVIRONMENT, ROOT, call
from tests.conftest import SMALL_MODEL
from vae.model import make_model, save

pytestmark = pytest.mark.slow

LIBRARY = {"numpy", "pydantic", "pyro-ppl", "pyyaml", "safetensors", "torch", "tqdm"}
# torch asks for these itself.
SHARED = {"filelock", "jinja2"}
USE = """
import sys
sys.modules.update(dict.fromkeys({blocked}))  # None: an import fails
import torch, vae, vae.training.loop
model = vae.load("model.safetensors")
images = torch.rand(4, *model.image_shape)
decoded = model.decode(model.encode(images).sample())
print(decoded.shape == model.reconstruct(images).shape == model.sample(4, seed=0).shape == images.shape)
"""


def names(requirements: Iterable[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that pip would build from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("vae", "stages", "tools", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    call(folder, sys.executable, "-c", "from setuptools import build_meta; build_meta.build_wheel('.')")
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_installs_the_library_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = [path for path in map(Path, wheel.namelist()) if not path.parts[0].endswith(".dist-info")]
    assert {path.parts[0] for path in files} == {"vae"}
    kept = [path.relative_to(ROOT) for path in (ROOT / "vae").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sorted(files) == sorted(kept), "py.typed and the report's template among them"
    assert Path("vae/py.typed") in files


def test_the_wheel_asks_for_little_and_leaves_the_pipelines_packages_to_an_extra(wheel: zipfile.ZipFile) -> None:
    (path,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    metadata = email.message_from_bytes(wheel.read(path))
    assert metadata["Version"] == vae.__version__
    required = metadata.get_all("Requires-Dist")
    assert names(line for line in required if "extra ==" not in line) == LIBRARY
    assert {"dvc", "seaborn", "scikit-learn", "torchvision"} <= names(line for line in required if '"pipeline"' in line)


def test_the_library_works_without_the_pipelines_packages(make_settings, tmp_path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = names(extras["pipeline"]) - SHARED
    blocked = [module for module, found in packages_distributions().items() if distributions & set(found)]
    assert {"dvc", "sklearn", "matplotlib", "pandas", "torchvision"} <= set(blocked)
    settings = make_settings(model=SMALL_MODEL).model
    model = make_model(settings, (1, 8, 8), 10)
    save(model, tmp_path / "model.safetensors", settings, {"classes": [str(digit) for digit in range(10)]})
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", USE.format(blocked=blocked)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_setup_installs_the_extras_that_the_pipeline_and_its_tests_need() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = set(re.findall(r"'\.\[(.+)\]'", (ROOT / "Makefile").read_text()))
    assert set(installed.split(",")) == set(extras)
