"""The table of experiments."""

import csv
import io
import re

import pytest

from tests.tools.conftest import run_metrics, values_by_image
from tools.table import as_csv, as_latex, as_markdown, escape, main

pytestmark = pytest.mark.slow

RUNS = {
    "base_line": {"test_nll": 84.8604, "test_nll_stderr": 0.2331, "precision": 0.8518, "odd_key": 1234.5},
    "50% & more": {"test_nll": -3.0},
}
KEYS = ["test_nll", "precision", "odd_key"]


def latex_rows(text):
    """The cells of a tabular's rows as LaTeX sets them."""
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\midrule", "")
    rows = [row.strip() for row in body.split(r"\\") if row.strip()]
    return [[re.sub(r"\\([&%$#_{}])", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)&", row)] for row in rows]


def test_csv_keeps_every_digit_and_the_errors():
    header, *rows = csv.reader(io.StringIO(as_csv(RUNS, KEYS)))
    assert header == ["experiment", "test_nll", "test_nll_stderr", "precision", "odd_key"]
    assert rows == [["base_line", "84.8604", "0.2331", "0.8518", "1234.5"], ["50% & more", "-3.0", "", "", ""]]


def test_latex_has_as_many_cells_as_columns_and_escapes_names():
    text = as_latex(RUNS, KEYS)
    assert re.match(r"\\begin\{tabular\}\{lrrr\}\n\\toprule\n", text)
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    head, first, second = latex_rows(text)
    assert head == ["Experiment", "Negative log-likelihood (nats per image)", "Precision (of samples)", "odd_key"]
    assert first == ["base_line", r"$84.86 \pm 0.23$", "$85.2%$", "$1234.5$"]
    assert second == ["50% & more", "$-3.00$", "--", "--"]
    assert r"50\% \& more" in text and r"base\_line" in text


def test_latex_escapes_what_it_would_take_for_commands():
    assert escape("a_b^c~d\\e{f}") == r"a\_b\textasciicircum{}c\textasciitilde{}d\textbackslash{}e\{f\}"


def test_markdown_shows_value_and_error_in_one_cell():
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in as_markdown(RUNS, KEYS).splitlines()]
    assert lines[0] == ["experiment", *KEYS]
    assert lines[2:] == [["base_line", "84.86 ± 0.23", "85.2%", "1234.5"], ["50% & more", "-3.00", "", ""]]


def test_the_command_reads_revisions_and_experiments(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr("sys.argv", ["table", "first", "tuned", "--format", "csv", "--metrics", "test_nll"])
    main()
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["experiment"] for row in rows] == ["first", "tuned"]
    for row, seed in zip(rows, (1, 4), strict=True):
        known = run_metrics(values_by_image(seed))
        assert float(row["test_nll"]) == known["test_nll"] and float(row["test_nll_stderr"]) == known["test_nll_stderr"]


def test_without_revisions_it_shows_the_experiments_on_head(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr("sys.argv", ["table", "--format", "csv"])
    main()
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["experiment"] for row in rows] == ["HEAD", "tuned"]
    assert {"test_nll", "test_elbo", "active_units"} <= rows[0].keys()


@pytest.mark.parametrize(
    ("arguments", "message"), [(["nothing"], "nothing: "), (["--metrics", "x", "--", "first"], "x")]
)
def test_an_unknown_revision_or_metric_is_refused(project, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(project)
    monkeypatch.setattr("sys.argv", ["table", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "error: " in (error := capsys.readouterr().err) and message in error
