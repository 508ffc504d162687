"""The identity of code: what a comment leaves alone and what it does not overlook."""

from pathlib import Path

import pytest
import torch

from vae.identity import code_identity, machine, statements

SOURCE = '''\
"""A module."""

import math  # for pi


class Empty(Exception):
    """Nothing but this."""


def area(radius):
    """The area of a circle.

    With a paragraph.
    """
    # Squared.
    text = """first

    # no comment
"""
    name = f"{radius}#{text}"
    return math.pi * radius**2, text, name, "ä#"  # ä
'''
STATEMENTS = '''\
import math
class Empty(Exception):
def area(radius):
    text = """first

    # no comment
"""
    name = f"{radius}#{text}"
    return math.pi * radius**2, text, name, "ä#"'''


def test_comments_docstrings_and_blank_lines_go_and_strings_stay():
    assert statements(SOURCE) == STATEMENTS


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# for pi", "# why"),
        ("  # for pi", ""),
        ("    # Squared.\n", ""),
        ("# ä", "# ö"),
        ("A module.", "Another one."),
        ('    """Nothing but this."""', "    '''Nothing, in\n    several lines.'''"),
        ("With a paragraph.", "With # no comment and\n\n    two paragraphs."),
        ("import math", "\n\n# Standard library\nimport math"),
    ],
)
def test_what_does_nothing_does_not_count(old, new):
    assert SOURCE.count(old) == 1
    assert statements(SOURCE.replace(old, new)) == statements(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("radius**2", "radius**3"),
        ("first\n\n", "first\n"),
        ("# no comment", "# another"),
        ("}#{", "} #{"),
        ('"ä#"', '"ö#"'),
        ("    return", "return"),
    ],
)
def test_everything_else_counts(old, new):
    assert SOURCE.count(old) == 1
    assert statements(SOURCE.replace(old, new)) != statements(SOURCE)


def test_an_identity_depends_on_names_and_code_and_nothing_else(tmp_path):
    def identity(files):
        for path in tmp_path.rglob("*.*"):
            path.unlink()
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return code_identity(tmp_path)

    first = identity({"a.py": "1", "deep/b.py": "2"})
    assert first == identity({"deep/b.py": "2  # two", "a.py": "1\r\n", "a.pyc": "3"})
    others = [{"a.py": "1", "deep/b.py": "3"}, {"a.py": "1", "deep/c.py": "2"}, {"a.py": "2", "deep/b.py": "1"}]
    assert len({first, *map(identity, others)}) == 4


def test_an_identity_is_the_same_in_every_version_of_python(tmp_path):
    (tmp_path / "code.py").write_text(SOURCE)
    # Computed with Python 3.11, whose f-strings are one token where newer ones have several.
    assert code_identity(tmp_path / "code.py") == "aeed117576ecba2f"


def test_the_machine_is_named_by_its_type(monkeypatch):
    assert machine(torch.device("cpu")).startswith("CPU (")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert machine(torch.device("cuda")).startswith("NVIDIA H200 (")


def test_every_module_of_the_project_has_an_identity():
    for path in (Path(__file__).parents[1] / "vae").rglob("*.py"):
        assert "#" not in [line.lstrip()[:1] for line in statements(path.read_text()).splitlines()], path
