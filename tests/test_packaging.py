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

import numpy as np
import pytest
import yaml

import vae
from tests.checkouts import ENVIRONMENT, ROOT, SMALL, call
from tests.conftest import PARAMS, SMALL_MODEL
from vae.data.splits import make_splits, write_split
from vae.model import load, make_model, save

pytestmark = pytest.mark.slow

LIBRARY = {"numpy", "pydantic", "pyro-ppl", "pyyaml", "safetensors", "torch", "tqdm"}
# torch asks for these itself.
SHARED = {"filelock", "jinja2"}
# What handles only settings, metrics and raw data.
LIGHT = ("stages.download", "tools.run", "tools.seeds", "tools.show", "tools.table", "tools.verify")
USE = """
import sys
sys.modules.update(dict.fromkeys({blocked}))  # None: an import fails
import torch, vae, vae.training.loop
model = vae.load("model.safetensors")
images = torch.rand(4, *model.image_shape)
decoded = model.decode(model.encode(images).sample())
print(decoded.shape == model.reconstruct(images).shape == model.sample(4, seed=0).shape == images.shape)
"""


TRAIN = """
import runpy, sys
sys.modules.update(dict.fromkeys({blocked}))
sys.argv = ["stages.train"]
runpy.run_module("stages.train", run_name="__main__")
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


@pytest.fixture(scope="module")
def blocked() -> list[str]:
    """The modules that only the pipeline's packages install."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = names(extras["pipeline"]) - SHARED
    found = [module for module, owners in packages_distributions().items() if distributions & set(owners)]
    assert {"dvc", "sklearn", "matplotlib", "pandas", "psutil", "torchvision"} <= set(found)
    return found


def run_without(blocked: list[str], code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run Python code on this checkout in a folder where these modules cannot be imported."""
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code.format(blocked=blocked)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_library_works_without_the_pipelines_packages(make_settings, blocked, tmp_path: Path) -> None:
    settings = make_settings(model=SMALL_MODEL).model
    model = make_model(settings, (1, 8, 8), 10)
    save(model, tmp_path / "model.safetensors", settings, {"classes": [str(digit) for digit in range(10)]})
    done = run_without(blocked, USE, tmp_path)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_training_works_without_the_pipelines_packages(make_settings, blocked, digits, tmp_path: Path) -> None:
    changes = {"prepare": SMALL["prepare"], "model": SMALL["model"], "train": SMALL["train"] | {"epochs": 1}}
    values = {section: keys | changes.get(section, {}) for section, keys in PARAMS.items()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    images = digits.numpy()
    labels = (np.arange(len(images)) % 10).astype(np.uint8)
    raw = {"train": (images[:1437], labels[:1437]), "test": (images[1437:], labels[1437:])}
    metadata = {"dataset": "digits", "binarization": "dynamic", "classes": [str(digit) for digit in range(10)]}
    for name, split in make_splits(raw, make_settings(**changes).prepare).items():
        write_split(tmp_path / f"data/prepared/{name}.safetensors", split, metadata)
    done = run_without(blocked, TRAIN, tmp_path)
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "data/model.safetensors").metadata["epochs"] == 1


def test_what_needs_no_tensors_starts_without_torch() -> None:
    call(ROOT, "python", "-c", f"import {', '.join(LIGHT)}, sys; assert 'torch' not in sys.modules")


def test_setup_installs_the_extras_that_the_pipeline_and_its_tests_need() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (installed,) = set(re.findall(r"'\.\[(.+)\]'", (ROOT / "Makefile").read_text()))
    assert set(installed.split(",")) == set(extras)
