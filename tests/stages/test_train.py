"""Training that is watched, and finished early."""

import json
from pathlib import Path

import pytest

from stages.train import FINISH
from tests.stages.conftest import PIPELINE, change, execute
from vae.files import read_tensors
from vae.training import loop

OUTPUTS = [Path(path) for path in ("data/model.safetensors", "data/snapshots.npz", "plots/history.csv")]
METRICS = Path("metrics/train.json")


@pytest.fixture
def watched(copied, monkeypatch):
    """Give a function: train for four epochs, looking at the folder after each of them; return what was seen."""
    change(train={"epochs": 4, "keep_checkpoint": False})

    def train(look):
        report, seen = loop.report, []

        def look_on(bar, progress, epochs):
            report(bar, progress, epochs)
            seen.append(look(progress.epoch))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "report", look_on)
            assert execute(patch, "train") == 0
        return seen

    return train


def results():
    return [path.read_bytes() for path in [*OUTPUTS, METRICS]]


def test_history_and_metrics_follow_the_training(watched):
    for path in (OUTPUTS[-1], METRICS):
        path.unlink()  # as DVC does before a stage
    seen = watched(lambda epoch: epoch > 1 and (OUTPUTS[-1].read_text().splitlines(), json.loads(METRICS.read_text())))
    history = OUTPUTS[-1].read_text().splitlines()
    assert len(history) == 5
    for epochs, (lines, metrics) in enumerate(seen[1:], start=1):  # each look comes before its own epoch is written
        assert lines == history[: epochs + 1]
        best = dict(zip(lines[0].split(","), lines[metrics["best_epoch"]].split(","), strict=True))
        assert metrics["validation_elbo"] == float(best["validation_elbo"])
        assert metrics["validation_elbo"] == max(float(line.split(",")[4]) for line in lines[1:])


def test_what_later_stages_measured_of_another_model_is_withdrawn_once_the_inputs_are_checked(watched, refusal):
    of_the_model = {name for name, stage in PIPELINE.items() if "data/model.safetensors" in stage["deps"]}
    withdrawn = {Path(f"metrics/{name}.json") for name in of_the_model} & set(Path("metrics").iterdir())
    assert {path.name for path in withdrawn} == {"evaluate.json", "sample.json"}
    split = Path("data/prepared/test.safetensors")
    kept = split.read_bytes()
    split.unlink()
    assert refusal("train")[0] == 2  # and nothing is written or removed
    split.write_bytes(kept)
    assert not any(any(path.exists() for path in withdrawn) for _ in watched(lambda epoch: None))
    assert Path("metrics/classify.json").exists()


def test_a_training_that_is_asked_to_finish_says_so_and_continues_later_to_the_same_bytes(watched, capsys):
    watched(lambda epoch: None)
    whole = results()
    FINISH.touch()  # left from before: it is not for this run
    watched(lambda epoch: epoch == 2 and FINISH.touch())
    assert not FINISH.exists()
    assert len(OUTPUTS[-1].read_text().splitlines()) == 3
    assert json.loads(METRICS.read_text())["epochs"] == 2
    assert "after epoch 2 of 4" in capsys.readouterr().out
    assert read_tensors(OUTPUTS[0])[1]["epochs"] == 2
    watched(lambda epoch: None)
    assert "resuming from checkpoint: after epoch 2" in capsys.readouterr().out
    assert results() == whole
    assert not list(Path("data/.checkpoints").glob("*/"))


def test_tensorboard_shows_the_history_in_a_folder_of_the_run_and_changes_no_result(watched):
    watched(lambda epoch: None)
    whole = results()
    change(train={"tensorboard": "curves"})
    watched(lambda epoch: None)
    assert results() == whole
    (run,) = Path("curves").iterdir()
    assert len(list(run.glob("events.out.tfevents.*"))) == 1


def test_streamed_images_change_no_result(watched):
    watched(lambda epoch: None)
    whole = results()
    change(train={"images": "streamed"})
    watched(lambda epoch: None)
    assert results() == whole


def test_a_wish_that_comes_in_the_last_epoch_changes_nothing(watched):
    watched(lambda epoch: None)
    whole = results()
    watched(lambda epoch: epoch == 4 and FINISH.touch())
    assert results() == whole
    assert not FINISH.exists()
