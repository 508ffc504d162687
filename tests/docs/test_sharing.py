"""The commands of docs/sharing.md hand results on to another clone: through a folder, and through S3's protocol."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests import checkouts
from tests.checkouts import ROOT, call, change, contents, keep_stages, stages_run
from tests.test_pipeline import STAGES
from tests.test_readme import blocks

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/sharing.md"
TO_FOLDER, TO_S3, COMMIT, PUSH, PULL, RUN, TAKE, REPAIR, SHARE_CACHE, PUSH_RUNS, PULL_RUNS = (
    [shlex.split(line) for line in block.splitlines()] for _, block in blocks(PAGE)
)
OUTPUTS = ("data/raw", "data/prepared", "data/model.safetensors", "data/classifier.safetensors", "plots", "metrics")
# In place of the page's learning rate, which has the tests wait for a training and all that depends on it.
SETTINGS = {"folder": ("plot.samples=30", ["plot", "report"]), "s3": ("embed.images=90", ["embed"])}


def run(folder: Path, commands: list[list[str]], **names: str) -> str:
    """Run commands of the page with other names in their place, and return what the last one printed."""
    for words in commands:
        output = call(folder, *(names.get(re.sub(r"\W", "_", word), word) for word in words))
    return output


@pytest.fixture(scope="module")
def bucket() -> dict[str, str]:
    """The page's names in terms of a server on this machine that speaks S3's protocol."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
            patch.setitem(checkouts.ENVIRONMENT, name, "testing")
        server.start()
        address = "http://{}:{}".format(*server.get_host_and_port())
        boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="bucket")
        yield {"https___s3_example_org": address}
        server.stop()


@pytest.fixture
def origin(checkout: Path, tmp_path: Path) -> Path:
    """The finished checkout with a Git remote named origin."""
    call(tmp_path, "git", "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    call(checkout, "git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    call(checkout, "git", "push", "--quiet", "--set-upstream", "origin", "main")
    return checkout


def drop_slow_stages(origin: Path) -> None:
    keep_stages(origin, *(stage for stage in STAGES if stage not in ("plot", "report")))
    shutil.rmtree(origin / "plots/images")
    (origin / "plots/report.html").unlink()
    call(origin, "git", "commit", "--quiet", "--all", "--message=Without pictures")


def clone(origin: Path, name: str = "clone") -> Path:
    call(origin.parent, "git", "clone", "--quiet", "origin.git", name)
    return origin.parent / name


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_run_and_an_experiment_are_handed_on_whole(
    origin: Path, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "folder":
        run(origin, TO_FOLDER, _mnt_storage_vae=str(tmp_path / "storage"))
    else:
        drop_slow_stages(origin)
        run(origin, TO_S3, **request.getfixturevalue("bucket"))
    run(origin, [*COMMIT, *PUSH])
    finished = contents(origin, "dvc.lock", *OUTPUTS)
    setting, affected = SETTINGS[kind]
    settings = (origin / "params.yaml").read_text()
    assert stages_run(run(origin, RUN[:1], train_learning_rate_0_001=setting)) == affected
    run(origin, RUN[1:])
    experiment = contents(origin, "dvc.lock", *OUTPUTS)
    assert experiment != finished

    other = clone(origin)
    assert stages_run(run(other, PULL)) == []
    assert contents(other, "dvc.lock", *OUTPUTS) == finished
    run(other, TAKE)
    assert contents(other, "dvc.lock", *OUTPUTS) == experiment
    assert "up to date" in call(other, "dvc", "status")
    if kind == "folder":
        check_the_run_cache(origin, tmp_path / "storage")
        # Back to the settings before: nothing runs, and the pictures are those again.
        (origin / "params.yaml").write_text(settings)
        output = call(origin, "dvc", "repro")
        assert stages_run(output) == []
        assert "Stage 'plot' is cached - skipping run" in output
        assert contents(origin, "dvc.lock", *OUTPUTS) == finished


def check_the_run_cache(origin: Path, storage: Path) -> None:
    """Through a remote it carries stages without metrics."""
    run(origin, PUSH_RUNS)
    other = clone(origin, "another")
    run(other, PULL)
    change(other, plot={"samples": 30})
    output = run(other, PULL_RUNS)
    assert stages_run(output) == []
    assert re.findall(r"Stage '(\w+)' is cached", output) == ["plot", "report"]
    # Of a stage with metrics the record is there and the metrics' file is not, so that it would run again.
    stored = [path.read_bytes() for path in storage.glob("files/*/*/*")]
    assert (origin / "data/model.safetensors").read_bytes() in stored
    assert (origin / "metrics/train.json").read_bytes() not in stored


def test_an_experiment_of_some_stages_without_the_others_files_is_applied_as_far_as_it_goes(origin: Path) -> None:
    drop_slow_stages(origin)
    run(origin, TO_FOLDER, _mnt_storage_vae=str(origin.parent / "storage"))
    run(origin, COMMIT)
    # As in a clone that has trained, and never had what the record's other stages made.
    samples = (origin / "data/samples.npz").read_bytes()
    (origin / "data/samples.npz").unlink()
    for path in (origin / ".dvc/cache/files").glob("*/*/*"):
        if path.read_bytes() == samples:
            path.unlink()
    call(origin, "dvc", "exp", "run", "--name", "slower", "--set-param", "embed.images=90", "embed")
    run(origin, RUN[1:])
    other = clone(origin)
    pull, apply = TAKE[1:]
    run(other, [pull])
    with pytest.raises(AssertionError, match="Checkout failed"):
        run(other, [apply])
    assert "images: 90" in (other / "params.yaml").read_text()
    assert (other / "data/model.safetensors").read_bytes() == (origin / "data/model.safetensors").read_bytes()
    assert stages_run(run(other, REPAIR)) == ["sample"]
    assert (other / "data/samples.npz").read_bytes() == samples


def test_clones_that_share_a_cache_find_all_runs_of_each_other(origin: Path, tmp_path: Path) -> None:
    Path(shutil.copytree(origin / ".dvc/cache", tmp_path / "cache"))
    other = clone(origin)
    (other / "dvc.lock").unlink()  # so that only the run cache knows
    run(other, SHARE_CACHE, _mnt_cache_vae=str(tmp_path / "cache"))
    output = call(other, "dvc", "repro")
    assert stages_run(output) == []
    assert re.findall(r"Stage '(\w+)' is cached", output) == STAGES
    assert contents(other, "dvc.lock", *OUTPUTS) == contents(origin, "dvc.lock", *OUTPUTS)
