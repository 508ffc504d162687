"""The page of published records and the changelog agree with what else the project says."""

import re

import pytest

import vae
from tests.checkouts import ROOT
from tools.results import PUBLISHED

RECORDS, CHANGELOG = ROOT / "docs/records.md", ROOT / "CHANGELOG.md"
HOLDING, UNREAD, FAILING = re.findall(r"(?s)^## Results.*?(?=^## )", RECORDS.read_text(), re.MULTILINE)


def rows(section: str) -> list[list[str]]:
    lines = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [line.split(" | ") for line in lines[2:]]


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_experiments_are_on_the_page_with_their_source(name: str) -> None:
    number, source = PUBLISHED[name]
    authors = re.match(r"\w+", source)[0]
    assert [row for row in rows(HOLDING) if f"{number:.2f}" in row[1] and authors in row[-1]]


def test_every_row_says_where_it_comes_from() -> None:
    assert all(
        re.search(r"\b(code|paper|second hand)\b", row[-1]) for row in [*rows(HOLDING), *rows(UNREAD), *rows(FAILING)]
    )


def test_every_vae_below_78_is_among_those_that_cannot_be_checked() -> None:
    held = [float(number) for row in rows(HOLDING) for number in re.findall(r"\d\d\.\d\d", row[1])]
    assert min(held) == 78.01
    assert min(float(row[1]) for row in rows(UNREAD)) == 78.0
    assert len(rows(FAILING)) == 6


def test_the_page_links_to_what_exists() -> None:
    for page in (RECORDS, CHANGELOG):
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
        assert [link for link in links if not (page.parent / link).is_file()] == []


def test_the_changelog_knows_the_version_and_starts_with_what_is_unreleased() -> None:
    text = CHANGELOG.read_text()
    sections = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    version = vae.__version__
    assert sections[0] == "Unreleased"
    assert version in sections
    assert set(re.findall(r"^### (\w+)", text, re.MULTILINE)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip
