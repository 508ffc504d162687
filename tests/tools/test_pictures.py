"""What README.md and docs/ show of a finished run."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.checkouts import ROOT
from tools.pictures import main, refresh, shown
from vae.errors import InputError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A finished run whose README shows a and b, of which a is old in docs/."""
    pages = {
        "README.md": "![A](docs/pictures/a.png)\n\n```\n| metric | value |\n| old | 1 |\n…\n```\n",
        "docs/tutorial.md": "![B](pictures/b.png) [graph](graph.svg)\n",
    }
    run = {"plots/images/a.png": "new a", "plots/images/b.png": "b", "plots/images/c.png": "c"}
    run["metrics/evaluate.json"] = json.dumps({"kl": 25.5, "test_nll": 88.25, "test_nll_stderr": 0.25, "recall": 0.5})
    other = {"docs/pictures/a.png": "old a", "data/model.safetensors": "weights"}
    report = {"plots/report.html": hashlib.sha256(b"weights").hexdigest()}
    for name, text in {**pages, **run, **other, **report}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def contents(project: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (project / "docs/pictures").iterdir()}


def test_what_the_pages_show_is_refreshed_and_nothing_else(project: Path) -> None:
    assert [path.name for path in refresh(project)] == ["a.png", "b.png", "metrics.md", "README.md"]
    assert contents(project) == {"a.png": "new a", "b.png": "b"}
    assert refresh(project) == []


def rows(text: str) -> list[list[str]]:
    """The first two cells of a page's table of metrics, row by row."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.split("|")[1:3]] for line in lines]


def test_the_metrics_page_has_all_metrics_and_the_readme_the_first_ones(project: Path) -> None:
    values = json.dumps({f"new_{number}": number for number in range(9)})
    (project / "metrics/sample.json").write_text(values)
    refresh(project)
    known = [["metric", "value"], ["test_nll", "88.25"], ["kl", "25.5"], ["recall", "0.5"]]
    others = [[f"new_{number}", str(number)] for number in range(9)]
    assert rows((project / "docs/metrics.md").read_text()) == known + others
    assert rows((project / "README.md").read_text()) == known + others[:2]
    assert (project / "README.md").read_text().endswith("|\n…\n```\n")


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
