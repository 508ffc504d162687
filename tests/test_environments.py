"""The other ways into the project (pip, conda, containers) install what pyproject.toml asks for."""

import json
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.checkouts import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
DEVCONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())


def statements(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)", DOCKERFILE, re.MULTILINE)


def pins() -> dict[str, Requirement]:
    found = (Requirement(line) for line in statements(ROOT / "constraints.txt"))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_requirements_install_this_project_with_all_that_its_stages_need() -> None:
    constraint, editable = statements(ROOT / "requirements.txt")
    assert constraint == "--constraint constraints.txt"
    extras = re.fullmatch(r"--editable \.\[([\w,]+)\]", editable)[1].split(",")
    assert set(extras) <= set(EXTRAS)
    assert set(extras) == {"pipeline", "plots"}  # the rest is for developers


def test_every_dependency_is_pinned_to_one_version_within_its_range() -> None:
    asked = [Requirement(line) for line in [*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values())]]
    pinned = pins()
    assert [requirement.name for requirement in asked if canonicalize_name(requirement.name) not in pinned] == []
    for requirement in asked:
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), requirement


def test_the_conda_environment_installs_the_requirements_on_a_python_that_is_allowed() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    (by_pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert by_pip == ["--requirement requirements.txt"]
    by_conda = dict((item + "=").split("=")[:2] for item in environment["dependencies"] if isinstance(item, str))
    assert set(by_conda) == {"python", "pip", "git", "make"}
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(by_conda["python"])


def test_the_hosted_jobs_without_make_install_extras_that_exist_and_all_that_quick_tests_need() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    assert jobs["systems"]["strategy"]["matrix"]["system"] == ["macos-latest", "windows-latest"]
    install, run = (step["run"] for step in jobs["systems"]["steps"] if "run" in step)
    extras = set(re.fullmatch(r"pip install --editable '\.\[([\w,]+)\]'", install)[1].split(","))
    # Graphviz has no program there to draw with, and remotes are only in the slow tests.
    assert extras == set(EXTRAS) - {"graph", "sharing"}
    assert run == "pytest -m 'not slow'"


def test_make_installs_every_extra() -> None:
    lists = re.findall(r"--editable '\.\[([\w,]+)\]'", (ROOT / "Makefile").read_text())
    assert [set(extras.split(",")) for extras in lists] == [set(EXTRAS)] * 2


def test_the_citation_names_a_version_only_if_the_changelog_calls_it_released() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## \[([\d.]+)\] - ([\d-]+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    named = [(citation["version"], str(citation["date-released"]))] if "version" in citation else []
    assert named == released[:1]


def test_everything_that_the_dockerfile_copies_is_in_the_repository() -> None:
    ignored = statements(ROOT / ".dockerignore")
    for copy in instructions("COPY"):
        *sources, target = copy.split()
        assert target
        for source in sources:
            assert (ROOT / source).exists(), copy
            assert f"{source}/" not in ignored
            listed = subprocess.run(
                ["git", "ls-files", "--cached", "--others", "--exclude-standard", source],
                cwd=ROOT,
                capture_output=True,
                check=True,
            )
            assert listed.stdout, f"{source}: not in the repository"
    # An image must not carry results, caches or another machine's environment; Git's folder it needs, as DVC does.
    of_machine = {".venv/", "data/", "plots/", ".dvc/cache/", ".dvc/tmp/"}
    assert of_machine <= set(ignored)
    assert not any(line.startswith(".git/") for line in ignored)


def test_the_dockerfile_takes_its_base_as_an_argument() -> None:
    assert re.fullmatch(r"BASE=\S+", *instructions("ARG"))
    first, *later = instructions("FROM")
    assert first == "${BASE} AS system"
    assert later == ["system"]


def test_commands_of_the_containers_are_targets_of_make() -> None:
    text = "\n".join([(ROOT / "Dockerfile").read_text(), DEVCONTAINER["postCreateCommand"]])
    named = set(re.findall(r"\bmake ([a-z-]+)$", text, re.MULTILINE)) | {json.loads(*instructions("CMD"))[1]}
    assert {"setup", "demo"} <= named
    assert named <= TARGETS


def test_the_dev_container_builds_a_stage_of_the_dockerfile() -> None:
    build = DEVCONTAINER["build"]
    folder = ROOT / ".devcontainer"
    assert (folder / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / build["context"]).resolve() == ROOT
    assert any(base.endswith(f" AS {build['target']}") for base in instructions("FROM"))
    python = DEVCONTAINER["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python == "${workspaceFolder}/.venv/bin/python"
