import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages import download
from tests.stages.conftest import ROOT, change
from vae.settings import load_settings

pytestmark = pytest.mark.slow


@pytest.fixture
def offline():
    """Environment variables that let no request leave this machine: a proxy that never answers."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        yield {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": ""}


def run_stage(**environment):
    kept = {key: value for key, value in os.environ.items() if key.lower() not in ("mnist_mirror", "no_proxy")}
    return subprocess.run(
        [sys.executable, "-m", "stages.download"],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_digits_need_no_network(project, offline):
    change(download={"dataset": "digits"})
    finished = run_stage(**offline)
    assert finished.returncode == 0, finished.stderr
    assert [path.name for path in Path("data/raw").iterdir()] == ["digits.npz"]
    with np.load("data/raw/digits.npz") as arrays:
        assert arrays["images"].shape == (1797, 8, 8)


def test_wrong_files_everywhere_are_one_message_and_status_1(project, offline):
    (project / "mirror").mkdir()
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (project / f"mirror/{split}-{kind}-ubyte.gz").write_bytes(b"not MNIST")
    finished = run_stage(MNIST_MIRROR="mirror", **offline)
    assert finished.returncode == 1
    first, second, *_, last = finished.stderr.splitlines()
    assert first == "error: train-labels-idx1-ubyte.gz: not available from any mirror"
    assert second.startswith("  mirror/train-labels-idx1-ubyte.gz: wrong checksum")
    assert "MNIST_MIRROR" in last and "make demo" in last
    assert all(mirror in finished.stderr for mirror in load_settings("params.yaml").download.mirrors)
    assert "Traceback" not in finished.stderr
    assert not any(path.is_file() for path in project.glob("data/raw/**/*"))


def test_an_invalid_setting_is_one_message_and_status_2(project):
    change(download={"dataset": "minst"})
    finished = run_stage()
    assert finished.returncode == 2
    assert finished.stderr == (
        "error: params.yaml: download.dataset: got 'minst', allowed: one of mnist, fashion_mnist, kmnist, digits\n"
    )
    assert not (project / "data").exists()


@pytest.mark.parametrize("own", ["", "https://reader:secret@example.com/mnist"])
def test_the_mirror_in_the_environment_comes_first(project, monkeypatch, own):
    monkeypatch.setenv("MNIST_MIRROR", own)
    asked = []
    monkeypatch.setattr(download, "fetch", lambda name, mirrors, folder: asked.extend(mirrors) or [])
    (project / "data/raw").mkdir(parents=True)
    settings = load_settings("params.yaml")
    download.download(settings)
    assert asked == [*filter(None, [own]), *settings.download.mirrors]


def test_another_data_sets_files_are_removed(project, monkeypatch):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)

    def fetch(name, mirrors, folder):
        assert (name, mirrors) == ("mnist", load_settings("params.yaml").download.mirrors)
        (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"labels")
        return ["train-labels-idx1-ubyte.gz"]

    monkeypatch.setattr(download, "fetch", fetch)
    (project / "data/raw").mkdir(parents=True)
    (project / "data/raw/digits.npz").write_bytes(b"digits")
    download.download(load_settings("params.yaml"))
    assert [path.name for path in Path("data/raw").iterdir()] == ["train-labels-idx1-ubyte.gz"]
