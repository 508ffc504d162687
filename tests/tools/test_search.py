"""What `python -m tools.search` says when it cannot search."""

import importlib.util
import sys

import pytest

from tools import search


@pytest.mark.parametrize(
    ("space", "installed", "message"),
    [
        ("searches/mnist.yaml", False, "optuna: not installed; run `pip install '.[search]'`"),
        ("my space.yaml", True, "my space.yaml: names the experiments, allowed: letters, digits, - and _"),
        ("nowhere.yaml", True, "nowhere.yaml: not found"),
    ],
)
def test_what_is_missing_is_one_message_and_status_2(monkeypatch, capsys, space, installed, message):
    monkeypatch.setattr(sys, "argv", ["tools/search.py", space])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find(name) if name != "optuna" or installed else None)
    with pytest.raises(SystemExit) as ended:
        search.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"
