"""`dvc plots show` and `dvc plots diff` on a machine without internet."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.browser import Visit, needs_chromium, visit
from tests.checkouts import ENVIRONMENT, ROOT, call

pytestmark = pytest.mark.slow

PLOTS = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
CHARTS = [entry for entry in PLOTS if isinstance(entry, dict)]
HISTORY = ("train_elbo", "train_kl", "train_reconstruction_nll", "validation_elbo")
TABLES = {
    "history": ["epoch", *HISTORY],
    "embedding": ["x", "y", "label"],
    "confusion": ["actual", "predicted"],
    "error_by_class": ["class", "nll", "reconstruction_nll"],
    "kl_per_dimension": ["rank", "dimension", "kl"],
}
# How many marks (bars, points, curves) each chart has, its paper and axes apart, once all are drawn.
MARKS = """new Promise(done => {
    const started = performance.now();
    const count = () => [...document.querySelectorAll('.vega-embed svg.marks')].map(
        chart => [...chart.querySelectorAll('.role-mark path')].filter(mark => mark.getTotalLength() > 0).length);
    const look = () => count().length >= NUMBER || performance.now() - started > 5000
        ? done(count()) : setTimeout(look, 50);
    look();
})""".replace("NUMBER", str(len(CHARTS)))
# The width of each picture, and how much of it lies beyond the window or is hidden by what it stands in.
PICTURES = """[...document.images].map(image => {
    const right = image.getBoundingClientRect().right;
    const holders = [image.closest("body > div"), image.parentElement].map(box => box.getBoundingClientRect().right);
    return [image.clientWidth, Math.max(0, right - Math.min(window.innerWidth, ...holders))];
})"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this project's plots over a few rows of figures, two commits of them, without a pipeline."""
    folder = tmp_path_factory.mktemp("offline") / "project"
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots", ignore=shutil.ignore_patterns("vega.js"))
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text().replace("/plots/\n", ""))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"plots": PLOTS}))
    (folder / "plots/images").mkdir(parents=True)
    call(folder, "git", "init", "--quiet", "--initial-branch=main")
    for factor in (1, 2):
        for name, columns in TABLES.items():
            rows = [",".join(str(factor * (row + column)) for column in range(len(columns))) for row in range(1, 8)]
            (folder / f"plots/{name}.csv").write_text("\n".join([",".join(columns), *rows, ""]))
        Image.new("L", (900, 100), 100 * factor).save(folder / "plots/images/some.png")
        call(folder, "git", "add", "--all")
        call(folder, "git", "commit", "--quiet", "--message=Figures")
    return folder


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make setup` leaves for the charts."""
    pytest.importorskip("vl_convert", reason="vl-convert-python, of the extra `plots`, is not installed")
    folder = tmp_path_factory.mktemp("script")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "tools.vega"], cwd=folder, env=environment, check=True)
    return folder / ".dvc/plots/vega.js"


@pytest.fixture
def shown(project: Path, tmp_path: Path) -> Callable[..., Visit]:
    """Give a function: run a command that writes a page of plots and open it, with a local script or without."""

    def show(*command: str, local: Path | None, out: str = "dvc_plots") -> Visit:
        folder = Path(shutil.copytree(project, tmp_path / "project"))
        if local:
            os.link(local, folder / ".dvc/plots/vega.js")
        call(folder, *command, *([] if out == "dvc_plots" else ["--out", out]))
        if out == "dvc_plots":
            assert call(folder, "git", "status", "--short") == ""
        return visit((folder / out / "index.html").as_uri(), tmp_path, MARKS, PICTURES)

    return show


@needs_chromium
@pytest.mark.parametrize("command", [("show",), ("diff", "HEAD~1", "HEAD")])
def test_every_chart_is_drawn_without_network(shown: Callable[..., Visit], script: Path, command: tuple[str]) -> None:
    seen = shown("dvc", "plots", *command, local=script)
    assert [request for request in seen.requests if not request.startswith(("file:", "data:"))] == []
    assert seen.failures == []
    assert [complaint for complaint in seen.complaints if not complaint.startswith("warning:")] == []
    marks, pictures = seen.answers
    assert len(marks) == len(CHARTS)
    assert min(marks) >= 2, "two curves, or more points and bars"
    assert len(pictures) == (1 if command == ("show",) else 2)
    for width, hidden in pictures:
        assert width > 800, "they are shrunk without need"
        assert hidden <= 0.5, "less than a pixel, which is what rounding may cost"


@needs_chromium
@pytest.mark.parametrize("out", ["compared", "plots/two/revisions", "."])
def test_charts_are_drawn_wherever_the_page_is_written_in_the_project(
    shown: Callable[..., Visit], script: Path, out: str
) -> None:
    seen = shown("dvc", "plots", "diff", "HEAD~1", "HEAD", local=script, out=out)
    assert [request for request in seen.requests if not request.startswith(("file:", "data:"))] == []
    marks, _ = seen.answers
    assert len(marks) == len(CHARTS)
    assert min(marks) >= 2


@needs_chromium
def test_a_page_without_the_local_script_asks_for_the_one_that_dvc_names(shown: Callable[..., Visit]) -> None:
    seen = shown("dvc", "plots", "show", local=None)
    remote = [request for request in seen.requests if request.startswith("https:")]
    assert {re.search(r"/npm/([\w-]+)@", request)[1] for request in remote} == {"vega", "vega-lite", "vega-embed"}


def test_plots_have_no_errors_with_the_local_script_or_without(project: Path) -> None:
    shown = json.loads(call(project, "dvc", "plots", "show", "--json"))
    assert "errors" not in shown
    assert {name for entry in CHARTS for name in entry} <= set(shown["data"])


def test_a_clone_without_the_local_script_gets_a_page_all_the_same(project: Path, tmp_path: Path) -> None:
    call(tmp_path, "git", "clone", "--quiet", str(project), "clone")
    call(tmp_path / "clone", "dvc", "plots", "show")
    page = (tmp_path / "clone/dvc_plots/index.html").read_text()
    assert page.count("vegaEmbed('#") == len(CHARTS)
    assert "{" + "scripts}" not in page
    assert page.index("vega.js") < page.index("/npm/vega@") < page.index("vegaEmbed('#")


def test_the_local_script_is_not_in_git() -> None:
    ignored = subprocess.run(["git", "check-ignore", "--quiet", ".dvc/plots/vega.js"], cwd=ROOT, env=ENVIRONMENT)
    assert ignored.returncode == 0
