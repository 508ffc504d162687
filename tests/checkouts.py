"""Temporary checkouts of this project in which the pipeline runs on scikit-learn's digits; a plugin of conftest.py."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).parents[1]
SMALL = {
    "download": {"dataset": "digits"},
    "prepare": {"validation_size": 200},
    "model": {"latent_dim": 4, "encoder_widths": [32], "decoder_widths": [32], "flow_widths": [8]},
    "train": {"device": "cpu", "epochs": 3, "snapshot_epochs": [1, 2]},
    "classify": {"epochs": 1},
    "evaluate": {"importance_samples": 5, "training_images": 200},
    "sample": {"images": 100},
    "embed": {"method": "pca", "images": 100},
    "plot": {"dpi": 75, "samples": 20},
}
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_", "MNIST_"))},
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    **{f"GIT_{role}_{key}": "test@example.com" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
    "NO_COLOR": "1",
    "DVC_NO_ANALYTICS": "1",  # projects that tests make; this one's configuration says so
}


def call(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def change(folder: Path, **sections: dict) -> None:
    path = folder / "params.yaml"
    settings = yaml.safe_load(path.read_text())
    for section, values in sections.items():
        settings[section] |= values
    path.write_text(yaml.safe_dump(settings, sort_keys=False))


def rewrite(folder: Path, pattern: str, old: str, new: str) -> None:
    """Replace a regular expression in the files that a pattern names; one of them must have it."""
    texts = {path: path.read_text() for path in folder.glob(pattern)}
    changed = {path: re.sub(old, new, text) for path, text in texts.items()}
    assert changed != texts
    for path, text in changed.items():
        path.write_text(text)


def keep_stages(folder: Path, *names: str) -> None:
    """Take the other stages out of the pipeline, for tests in which they would only take time."""
    path = folder / "dvc.yaml"
    pipeline = yaml.safe_load(path.read_text())
    pipeline["stages"] = {name: pipeline["stages"][name] for name in names}
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))


def stages_run(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def contents(folder: Path, *names: str) -> dict[str, bytes]:
    paths = [
        path
        for name in names
        for path in ([folder / name] if (folder / name).is_file() else folder.glob(f"{name}/**/*"))
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(paths) if path.is_file()}


# Gives the folder of a name, which a function fills that gets its path.
MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> MadeOnce:
    """Give a function that returns a folder, which the first test process that asks for it makes; only to be read."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                unfinished = shared / f"{name}-{worker_id}"
                shutil.rmtree(unfinished, ignore_errors=True)  # of an attempt that failed
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def finished(made_once: MadeOnce) -> Path:
    """A checkout with small settings whose pipeline has run and whose results are committed; only to be read."""
    return made_once("finished", _finish)


def _finish(folder: Path) -> None:
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith(("metrics/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    change(folder, **SMALL)
    call(folder, "git", "init", "--quiet", "--initial-branch=main")
    call(folder, "dvc", "repro")
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--message=Results")


@pytest.fixture
def checkout(finished: Path, tmp_path: Path) -> Path:
    """The finished checkout with its cache, to do with as one likes."""
    return Path(shutil.copytree(finished, tmp_path / "checkout"))
