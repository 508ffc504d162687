"""The artifacts that dvc.yaml names: DVC finds the model by its name where versions are tagged."""

import shutil

import dvc.api
import pytest
import yaml

from tests.checkouts import ROOT, call

pytestmark = pytest.mark.slow

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())


def test_the_model_is_found_by_its_name(project, tmp_path, monkeypatch):
    copy = shutil.copytree(project, tmp_path / "copy")
    (copy / "dvc.yaml").write_text(yaml.safe_dump({"artifacts": PIPELINE["artifacts"]}))
    weights = (copy / "data/model.safetensors").read_bytes()
    call(copy, "git", "add", "--all")
    call(copy, "git", "commit", "--quiet", "--message=Artifacts")
    call(copy, "git", "tag", "--annotate", "model@v1.0.0", "--message=First")
    (copy / "data/model.safetensors").unlink()  # it comes from the cache, not from the workspace
    monkeypatch.chdir(copy)
    assert dvc.api.artifacts_show("model", version="v1.0.0")["path"] == "data/model.safetensors"
    call(copy, "dvc", "artifacts", "get", ".", "model", "--out", "found.safetensors")
    assert (copy / "found.safetensors").read_bytes() == weights


def test_each_artifact_is_an_output_and_says_what_it_is():
    outputs = {out for stage in PIPELINE["stages"].values() for out in stage.get("outs", [])}
    assert PIPELINE["artifacts"]["model"]["path"] == "data/model.safetensors"
    for name, artifact in PIPELINE["artifacts"].items():
        assert artifact["path"] in outputs, name
        assert artifact["type"] == "model" and artifact["desc"] and artifact["labels"], name
