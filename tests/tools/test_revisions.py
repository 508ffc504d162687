"""Runs at any revision, read from Git and DVC's cache."""

import shutil

import pytest

from tests.checkouts import call
from tests.tools.conftest import IMAGES
from tools.revisions import open_run, read, read_metrics, read_settings, read_yaml
from vae.errors import InputError
from vae.files import read_arrays, read_numbers

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(project, tmp_path, monkeypatch):
    """A copy of the project as the working folder."""
    copy = shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(copy)
    return copy


def test_a_run_is_found_by_tag_experiment_and_workspace(folder):
    first, tuned, workspace = map(open_run, ("first", "tuned", "workspace"))
    assert first.commit == call(folder, "git", "rev-parse", "first").strip()
    assert len(tuned.commit) == 40
    assert workspace.commit == ""
    # The workspace holds the experiment's files, and the tag an earlier run's.
    assert read_metrics(tuned) == read_metrics(workspace) != read_metrics(first)
    assert [read_settings(run)["model.latent_dim"] for run in (first, open_run("second"), tuned)] == [2, 3, 2]
    assert len(read(first, "data/latents.npz", read_arrays)["nll"]) == IMAGES


def test_reading_leaves_the_workspace_as_it_is(folder):
    status = call(folder, "git", "status", "--short")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*") if ".git" not in path.parts}
    read(open_run("first"), "data/latents.npz", read_arrays)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert call(folder, "git", "status", "--short") == status


def test_what_is_missing_is_named_with_what_to_do(folder):
    with pytest.raises(InputError, match=r"nowhere: .*allowed: a Git revision, the name of an experiment"):
        open_run("nowhere")
    with pytest.raises(InputError, match=r"first: plots/absent\.csv does not exist at this revision; run `dvc fetch"):
        read(open_run("first"), "plots/absent.csv", read_numbers)
    shutil.rmtree(folder / ".dvc/cache")
    with pytest.raises(InputError, match=r"first: data/latents\.npz is neither in the cache nor in a remote; run `dvc"):
        read(open_run("first"), "data/latents.npz", read_arrays)


def test_a_readers_error_names_the_revision_and_the_file(folder):
    for contents, reason in {"no JSON": r"damaged \(", '{"kl": NaN}': "kl is nan, expected a finite number"}.items():
        (folder / "metrics/evaluate.json").write_text(contents)
        with pytest.raises(InputError, match=rf"workspace: metrics/evaluate\.json: {reason}"):
            read_metrics(open_run("workspace"))


def test_only_sections_of_settings_are_settings(tmp_path):
    (tmp_path / "params.yaml").write_text("model:\n  latent_dim: 2\nloose: 3\n")
    assert read_yaml(tmp_path / "params.yaml") == {"model": {"latent_dim": 2}}
    with pytest.raises(InputError, match=r"absent: cannot be read"):
        read_yaml(tmp_path / "absent")
