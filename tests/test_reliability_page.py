"""docs/reliability.md names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/reliability.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault")
]


def test_there_are_rows():
    assert len(ROWS) >= 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_fault_has_a_test_that_exists(row):
    assert len(row) == 4
    assert all(row)
    path, name = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[3]).groups()
    functions = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert name in functions
