"""The pictures that README.md and docs/ show, taken from a finished run."""

import hashlib
from pathlib import Path

import pytest

from tests.checkouts import ROOT
from tools.pictures import main, refresh, shown
from vae.errors import InputError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A finished run whose README shows a and b, of which a is old in docs/."""
    pages = {
        "README.md": "![A](docs/pictures/a.png)\n",
        "docs/tutorial.md": "![B](pictures/b.png) [graph](graph.svg)\n",
    }
    run = {"plots/images/a.png": "new a", "plots/images/b.png": "b", "plots/images/c.png": "c"}
    other = {"docs/pictures/a.png": "old a", "data/model.safetensors": "weights"}
    report = {"plots/report.html": hashlib.sha256(b"weights").hexdigest()}
    for name, text in {**pages, **run, **other, **report}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def contents(project: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (project / "docs/pictures").iterdir()}


def test_what_the_pages_show_is_refreshed_and_nothing_else(project: Path) -> None:
    assert [path.name for path in refresh(project)] == ["a.png", "b.png"]
    assert contents(project) == {"a.png": "new a", "b.png": "b"}
    assert refresh(project) == []


def test_a_run_that_lacks_a_picture_changes_nothing(project: Path) -> None:
    (project / "plots/images/b.png").unlink()
    with pytest.raises(InputError, match=r"plots/images: no b\.png, which"):
        refresh(project)
    assert contents(project) == {"a.png": "old a"}


def test_a_run_that_is_not_finished_ends_with_2(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "plots/report.html").unlink()
    monkeypatch.chdir(project)
    monkeypatch.setattr("sys.argv", ["pictures"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: plots/report.html: no finished run; run `make repro`\n"
    assert contents(project) == {"a.png": "old a"}


def test_docs_hold_the_pictures_that_the_pages_show() -> None:
    # All but what the notebook writes.
    there = {path.name for path in (ROOT / "docs/pictures").glob("*.png") if not path.name.startswith("introduction")}
    assert there == set(shown(ROOT))
