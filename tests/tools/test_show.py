"""The table of a run's metrics."""

import json

import pytest

from tools.show import main, metrics_table
from vae.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics").mkdir()
    judged = {"surprise": 3.5, "test_elbo": -90.0, "test_nll": 88.25, "test_nll_stderr": 0.25}
    (tmp_path / "metrics/evaluate.json").write_text(json.dumps(judged))
    (tmp_path / "metrics/sample.json").write_text(json.dumps({"recall": 0.5, "recall_real": 0.75}))
    return tmp_path


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_metric_is_shown_with_its_error_its_value_for_real_images_and_its_meaning(folder):
    rows = {row[0]: row[1:] for row in cells(metrics_table(folder))[2:]}
    assert rows["test_nll"][:4] == ["88.25", "0.25", "", "nats per image"]
    assert "lower is better" in rows["test_nll"][4]
    assert rows["recall"][:3] == ["0.5", "", "0.75"]
    # Known metrics in the report's order, then what nobody has explained yet.
    assert list(rows) == ["test_nll", "test_elbo", "recall", "surprise"]
    assert rows["surprise"] == ["3.5", "", "", "", ""]


def test_a_folder_without_metrics_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match=r"metrics: no metrics; run `dvc repro`"):
        metrics_table(tmp_path)
    monkeypatch.setattr("sys.argv", ["show", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
