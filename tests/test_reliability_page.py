"""docs/reliability.md lists the tests that cause faults, all of them and no others, and quotes what the code says."""

import ast
import errno
import os
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/reliability.md").read_text().splitlines()
    if line.count(" | ") == 3 and not line.startswith("| fault")
]
# What stands for a value in a message on the page, and where messages are joined.
VALUE = r"FILE|REASON|SIG[A-Z]+|NAME|\.\.\.|\d+|[:;] |\("


def fault_tests(path: Path) -> set[str]:
    """The tests of a file that have the marker `fault`, alone or by their module."""
    tree = ast.parse(path.read_text())
    marks = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    ]
    whole = any(_names_fault(mark) for mark in marks)
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    marked = [test for test in tests if whole or any(map(_names_fault, test.decorator_list))]
    return {f"{path.relative_to(ROOT).as_posix()}::{test.name}" for test in marked}


def _names_fault(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Attribute) and node.attr == "fault" for node in ast.walk(tree))


@cache
def said() -> str:
    """All texts in the code that messages are made of, and the reasons that the system gives."""
    texts = [os.strerror(number) for number in errno.errorcode]
    for folder in ("stages", "vae", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(texts).replace("`", "")


def test_every_fault_has_its_row_and_every_row_its_test():
    assert len(ROWS) >= 40
    assert all(len(row) == 4 and all(row) for row in ROWS)
    listed = [re.fullmatch(r"`(tests/[\w/]+\.py::test_\w+)`", row[3])[1] for row in ROWS]
    marked = set().union(*(fault_tests(path) for path in (ROOT / "tests").rglob("test_*.py")))
    assert sorted(listed) == sorted(marked)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_what_is_quoted_is_said(row):
    for message in re.findall("`([^`]+)`", row[1]):
        if "***" not in message and "can't allocate memory" not in message:  # the latter comes from torch
            fragments = [part.strip(" :;,()") for part in re.split(VALUE, message.removeprefix("error: "))]
            missing = [part for part in fragments if part and part not in said()]
            assert not missing, f"{message}: no such text in the code: {missing}"
