"""The look of the pages' sources."""

import re

import pytest

from tests.checkouts import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_prose_fit_into_120_columns(page):
    # Tables, code and formulas cannot be broken.
    prose = re.sub(r"(?ms)^```.*?^```|^\$\$.*?\$\$$", "", page.read_text())
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []
