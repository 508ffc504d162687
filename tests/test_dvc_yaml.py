"""dvc.yaml says what the code does: DVC can only be as right as these lists."""

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from stages.train import OF_LATER_STAGES
from vae.settings import Train

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PACKAGES = ("stages", "vae")
SCRATCH, FINISH = "data/.checkpoints", "data/.finish"
PAGE = "plots/report.html"  # for people: no later stage reads it
WITHOUT_EFFECT = {f"train.{key}" for key in Train.WITHOUT_EFFECT}
# What every stage stands on and none depends on: see "What an edit runs again" in CONTRIBUTING.md.
GROUND = (
    "stages/__init__.py",
    "vae/__init__.py",
    "vae/artifacts.py",
    "vae/device.py",
    "vae/errors.py",
    "vae/files.py",
    "vae/identity.py",
    "vae/launcher.py",
    "vae/modules.py",
    "vae/ranks.py",
    "vae/seeds.py",
)
GROUND_FOLDER = "vae/settings"
MOST_CODE_PATHS = 6  # a stage
MOST_CODE_COLUMNS, MOST_COLUMNS = 18, 30  # of dependencies in `dvc exp show`


def paths(stage, *kinds):
    """The paths that a stage lists under these keys, whether they come with options or without."""
    entries = [entry for kind in kinds for entry in STAGES[stage].get(kind, [])]
    return [path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])]


def options(stage, *kinds):
    """The options of the paths that a stage lists under these keys."""
    entries = [entry for kind in kinds for entry in STAGES[stage].get(kind, [])]
    return {path: given for entry in entries if isinstance(entry, dict) for path, given in entry.items()}


def is_code(path):
    return path.split("/")[0] in PACKAGES


def drawn():
    """The files that the charts and pictures at the top level show."""
    for entry in PIPELINE["plots"]:
        for name, given in entry.items() if isinstance(entry, dict) else [(entry, {})]:
            by_file = given.get("y")
            yield from by_file if isinstance(by_file, dict) else [name]


def parse(path):
    return ast.parse(path.read_text(), str(path))


# What a module imports


def imported_files(root, path):
    """The files of this project that the import statements anywhere in a module read, packages included."""
    modules = set()
    if "iter_modules(__path__)" in (root / path).read_text():  # a package that imports all of its modules
        package = Path(path).parent
        modules |= {".".join([*package.parts, file.stem]) for file in (root / package).glob("[!_]*.py")}
    for node in executed(parse(root / path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: a relative import, which this test does not follow"
            modules |= {node.module, *submodules(root, node.module, [alias.name for alias in node.names])}
    ours = [name.split(".") for name in modules if name.split(".")[0] in PACKAGES]
    return {file_of(root, parts[:end]) for parts in ours for end in range(1, len(parts) + 1)}


def executed(tree):
    """The nodes of a syntax tree but those that only type checkers read."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        only_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        waiting.extend(node.orelse if only_types else ast.iter_child_nodes(node))


def submodules(root, module, names):
    """Those of the names imported from a module that are modules themselves."""
    package = root.joinpath(*module.split("."))
    if module.split(".")[0] not in PACKAGES or not package.is_dir():
        return
    body = parse(package / "__init__.py").body
    defined = {getattr(node, "name", None) for node in body}
    # What a package hands on comes from modules that are found by following the package's own imports.
    defined |= {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    defined |= {target.id for node in body if isinstance(node, ast.Assign | ast.AnnAssign) for target in targets(node)}
    for name in names:
        # Any other attribute of a package may come from a module that nobody sees; `vae.load` does.
        if name not in defined or (package / f"{name}.py").is_file():
            yield f"{module}.{name}"


def targets(node):
    """The names that an assignment at a module's top defines."""
    found = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target for target in found if isinstance(target, ast.Name)]


def file_of(root, parts):
    place = Path(*parts)
    files = [file for file in (place / "__init__.py", place.with_suffix(".py")) if (root / file).is_file()]
    assert files, f"{'.'.join(parts)}: no such module"
    return str(files[0])


def reached_files(root, path):
    """A script, the packages around it and all that they import, at the first and at every further remove."""
    reached, waiting = set(), {path, str(Path(path).parent / "__init__.py")}
    while waiting:
        found = waiting.pop()
        reached.add(found)
        waiting |= imported_files(root, found) - reached
    return reached


def test_imports_are_followed_wherever_they_stand(tmp_path):
    sources = {
        "stages/__init__.py": "from vae.errors import InputError\ndef run(): pass\n",
        "stages/some.py": "import os\nfrom stages import run\nfrom vae import figures\nif run: import vae.files\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING: import vae.unused\n",
        "vae/__init__.py": "",
        "vae/errors.py": "",
        "vae/figures.py": "def draw():\n    from vae.colors import red\n",
        "vae/colors.py": "import numpy.random\nimport vae.figures\n",
        "vae/files.py": "from vae.deep.formats import npz\n",
        "vae/deep/__init__.py": "from vae.deep import more\n",
        "vae/deep/more.py": "",
        "vae/deep/formats.py": "",
        "vae/unused.py": "import vae.hidden\n",
        "vae/hidden.py": "",
    }
    for path, source in sources.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    assert reached_files(tmp_path, "stages/some.py") == sources.keys() - {"vae/unused.py", "vae/hidden.py"}


@pytest.mark.parametrize("source", ["from vae import load", "import vae.missing", "from . import x"])
def test_imports_that_cannot_be_followed_are_refused(tmp_path, source):
    for path in ("stages/__init__.py", "vae/__init__.py"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).touch()
    (tmp_path / "stages/some.py").write_text(source)
    with pytest.raises(AssertionError):
        reached_files(tmp_path, "stages/some.py")


# Stages and scripts


def test_every_stage_has_a_script_and_every_script_a_stage():
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert set(STAGES) == scripts


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_its_script_from_the_root(stage):
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_its_keys_in_one_order(stage):
    order = ["desc", "cmd", "deps", "params", "outs", "metrics"]
    assert list(STAGES[stage]) == [key for key in order if key in STAGES[stage]]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_says_in_a_sentence_what_it_does(stage):
    assert re.fullmatch(r"[A-Z].{10,100}\.", STAGES[stage]["desc"])


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_listed_twice(stage):
    for key in ("deps", "params", "outs", "metrics"):
        listed = paths(stage, key)
        assert len(listed) == len(set(listed)), key


# Dependencies


def is_ground(path):
    """Whether a module is common ground, or nothing but its package's docstring."""
    if path in GROUND or lies_in(path, GROUND_FOLDER):
        return True
    return Path(path).name == "__init__.py" and all(isinstance(node, ast.Expr) for node in parse(ROOT / path).body)


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_reaches_lies_in_a_dependency_or_in_the_ground(stage):
    reached = reached_files(ROOT, f"stages/{stage}.py")
    listed = [path for path in paths(stage, "deps") if is_code(path)]
    assert not [path for path in reached if not is_ground(path) and not any(lies_in(path, known) for known in listed)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_dependency_on_code_is_there_and_used(stage):
    reached = reached_files(ROOT, f"stages/{stage}.py")
    listed = [path for path in paths(stage, "deps") if is_code(path)]
    assert not [path for path in listed if not any(lies_in(module, path) for module in reached)]
    assert not [path for path in listed if is_ground(path) or lies_in(path, GROUND_FOLDER)]
    assert not [path for path in listed for other in listed if path != other and lies_in(path, other)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_few_code_paths(stage):
    assert len([path for path in paths(stage, "deps") if is_code(path)]) <= MOST_CODE_PATHS


def test_dvc_exp_show_has_a_bounded_number_of_columns_for_dependencies():
    columns = {path for stage in STAGES for path in paths(stage, "deps")}
    assert len([path for path in columns if is_code(path)]) <= MOST_CODE_COLUMNS
    assert len(columns) <= MOST_COLUMNS


@pytest.mark.parametrize("stage", STAGES)
def test_other_dependencies_are_outputs_of_stages_before_it_or_folders_of_them(stage):
    before = list(STAGES)[: list(STAGES).index(stage)]
    made = {path for name in before for path in paths(name, "outs", "metrics")}
    others = [path for path in paths(stage, "deps") if not is_code(path)]
    assert not [path for path in others if path not in made and not holds_nothing_else(path, made)]


def holds_nothing_else(folder, made):
    """Whether a folder holds outputs, all of them among those made."""
    every = {path for name in STAGES for path in paths(name, "outs", "metrics") if lies_in(path, folder)}
    return bool(every) and every <= made


def test_the_code_that_names_a_training_is_what_dvc_looks_at():
    assignments = [node for node in parse(ROOT / "stages/train.py").body if isinstance(node, ast.Assign)]
    (code,) = [ast.literal_eval(node.value) for node in assignments if [name.id for name in targets(node)] == ["CODE"]]
    assert list(code) == [path for path in paths("train", "deps") if is_code(path)]


def paths_in(text):
    return {path.rstrip("./") for path in re.findall(r"(?<![\w/])(?:data|plots|metrics)/[\w./]*", text)}


def strings(tree):
    """The strings in a module's code; docstrings, which are statements of their own, are none."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return " ".join(node.value for node in constants if isinstance(node.value, str))


def lies_in(path, folder):
    return Path(path).is_relative_to(folder)


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_that_a_script_mentions_even_in_words_is_declared(stage):
    mentioned = paths_in((ROOT / f"stages/{stage}.py").read_text())
    declared = [*paths(stage, "deps", "outs", "metrics"), SCRATCH]
    if stage == "train":
        declared += [FINISH, *withdrawn()]
    assert not [path for path in mentioned if not any(lies_in(path, known) for known in declared)]


def withdrawn():
    """The metrics of stages that judge the model, which a training removes."""
    return [
        path for name in STAGES if "data/model.safetensors" in paths(name, "deps") for path in paths(name, "metrics")
    ]


def test_a_training_withdraws_the_metrics_of_all_stages_that_judge_the_model():
    assert sorted(withdrawn()) == sorted(path.as_posix() for path in OF_LATER_STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_every_declared_path_is_in_the_scripts_code(stage):
    used = paths_in(strings(parse(ROOT / f"stages/{stage}.py")))
    declared = [path for path in paths(stage, "deps", "outs", "metrics") if not is_code(path)]
    assert declared
    assert not [path for path in declared if not any(lies_in(found, path) for found in used)]


# Parameters


def leaves(name):
    """The keys of params.yaml that `section` or `section.key` stands for."""
    section, *key = name.split(".")
    return {f"{section}.{known}" for known in (key or PARAMS[section])}


def accessed_parameters(source):
    """The keys of params.yaml that `settings.section` or `settings.section.key` reads in a source."""
    tree = ast.parse(source)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = set()
    for node in ast.walk(tree):
        names = []
        part = node if id(node) not in inner else None
        while isinstance(part, ast.Attribute):
            names.insert(0, part.attr)
            part = part.value
        if isinstance(part, ast.Name) and part.id == "settings" and names:
            section, *further = names
            # What is no key, such as `model_dump`, is about the whole section.
            found |= leaves(".".join([section, *(key for key in further[:1] if key in PARAMS[section])]))
    return found


def test_accessed_parameters_are_found():
    source = "f(settings.embed.method)\ng(settings.plot)\nx = settings.download.model_dump().get(other.train.seed)"
    assert accessed_parameters(source) == {
        "embed.method", "plot.dpi", "plot.samples", "plot.seed", "download.dataset", "download.mirrors"
    }  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_parameters_that_exist(stage):
    assert set().union(*map(leaves, STAGES[stage]["params"])) <= set().union(*map(leaves, PARAMS))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_exactly_the_parameters_that_its_script_reads(stage):
    listed = set().union(*map(leaves, STAGES[stage]["params"]))
    assert not listed & WITHOUT_EFFECT
    assert listed == accessed_parameters((ROOT / f"stages/{stage}.py").read_text()) - WITHOUT_EFFECT


def test_training_lists_all_of_its_parameters_but_those_without_effect():
    every = {f"train.{key}" for key in Train.model_fields}
    assert every > WITHOUT_EFFECT
    assert [name for name in STAGES["train"]["params"] if name != "model"] == [
        name for name in map("train.{}".format, Train.model_fields) if name not in WITHOUT_EFFECT
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_settings_are_always_called_settings(stage):
    """The test above would not see them under another name, nor what vae/ read if it got the whole of them."""
    tree = parse(ROOT / f"stages/{stage}.py")
    typed = [arg.arg for arg in ast.walk(tree) if isinstance(arg, ast.arg) and is_settings(arg.annotation)]
    assert set(typed) == {"settings"}
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        if any(isinstance(value, ast.Name) and value.id == "settings" for value in given):
            assert isinstance(call.func, ast.Name), f"line {call.lineno}"
            assert call.func.id in own, f"line {call.lineno}"


def is_settings(annotation):
    return isinstance(annotation, ast.Name) and annotation.id == "Settings"


# Outputs


@pytest.fixture(scope="module")
def is_ignored(tmp_path_factory):
    """Give a function that asks Git whether it ignores a path, by the rules of this project."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copy(ROOT / ".gitignore", folder)
    # Git hooks, which may run these tests, set variables that name their own repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", "init", "--quiet"], cwd=folder, env=environment, check=True)

    def ask(path):
        status = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=folder, env=environment).returncode
        assert status in (0, 1)
        return status == 0

    return ask


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_are_cached_by_dvc_and_ignored_by_git(stage, is_ignored):
    assert paths(stage, "outs")
    assert options(stage, "outs") == {}, "no `cache: false`; no `persist: true`, which switches the run cache off"
    assert all(is_ignored(path) for path in paths(stage, "outs"))


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_are_in_git_and_not_in_the_cache(stage, is_ignored):
    assert options(stage, "metrics") == {path: {"cache": False} for path in paths(stage, "metrics")}
    assert not any(is_ignored(path) for path in paths(stage, "metrics"))
    assert paths(stage, "metrics") in ([], [f"metrics/{stage}.json"])


def test_metrics_come_from_what_is_trained_and_judged():
    assert [stage for stage in STAGES if paths(stage, "metrics")] == ["classify", "train", "evaluate", "sample"]


def test_no_two_stages_make_the_same_file():
    made = [path for stage in STAGES for path in paths(stage, "outs", "metrics", "plots")]
    assert not [path for i, path in enumerate(made) for other in made[:i] + made[i + 1 :] if lies_in(path, other)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_output_is_used_by_a_later_stage_or_drawn(stage):
    later = list(STAGES)[list(STAGES).index(stage) + 1 :]
    used = {path for name in later for path in paths(name, "deps")} | set(drawn())
    assert set(paths(stage, "outs")) - {PAGE} <= used


def test_what_is_drawn_is_an_output():
    assert list(drawn())
    assert set(drawn()) <= {path for stage in STAGES for path in paths(stage, "outs")}


def test_no_file_is_both_a_stages_plot_and_one_at_the_top_level():
    assert not set(drawn()) & {path for stage in STAGES for path in paths(stage, "plots")}


def test_checkpoints_and_requests_are_hidden_from_git_and_dvc(is_ignored):
    assert is_ignored(f"{SCRATCH}/lock") and is_ignored(FINISH)
    assert f"/{SCRATCH}/" in (ROOT / ".dvcignore").read_text().split()
    assert not [path for stage in STAGES for path in paths(stage, "deps", "outs") if lies_in(path, SCRATCH)]
