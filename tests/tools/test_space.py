"""The space of a search: what may be in its file, and what becomes of what is drawn."""

from pathlib import Path

import optuna
import pytest
import yaml

from tools.space import assignments, read_space
from vae.errors import InputError
from vae.settings import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "settings": {"train": {"epochs": 30}},
    "space": {
        "model": {"encoder_widths": [[400], [640, 640]], "latent_dim": {"low": 20, "high": 60, "step": 10}},
        "train": {"learning_rate": {"low": 0.001, "high": 0.01, "log": True}, "shuffle": [True, False]},
    },
}


@pytest.fixture
def space(tmp_path, monkeypatch):
    """Give a function that reads a space from a file."""
    monkeypatch.chdir(ROOT)

    def read(contents):
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump(contents))
        return read_space(path)

    return read


def test_what_is_drawn_is_within_the_space_and_read_back_as_it_was_meant(space):
    read = space(SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(50):
        drawn = study.ask(read.distributions).params
        values = dict(item.split("=", 1) for item in assignments(read.settings, drawn))
        values = {key: parse_yaml(value, "") for key, value in values.items()}
        assert values["train.epochs"] == 30
        assert values["model.encoder_widths"] in ([400], [640, 640])
        assert values["model.latent_dim"] in (20, 30, 40, 50, 60)
        assert isinstance(values["model.latent_dim"], int)
        assert 0.001 <= values["train.learning_rate"] <= 0.01
        assert values["train.shuffle"] in (True, False)


def test_what_is_drawn_takes_the_place_of_what_all_trials_share():
    assert assignments({"train": {"epochs": 30}}, {"train.epochs": 2}) == ["train.epochs=2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "space: empty, allowed: keys of model and train"),
        ({"space": {"evaluate": {"seed": [0, 1]}}}, "space.evaluate.seed: other data or tests, allowed: keys of model"),
        ({"space": {"train": {"epoch": [1, 2]}}}, "space: train.epoch: unknown key"),
        ({"space": {"train": {"learning_rate": {"low": 0.1, "high": -1.0}}}}, "space.train.learning_rate: "),
        ({"space": {"train": {"learning_rate": {"low": 0, "high": 0.1}}}}, "space: train.learning_rate: got 0"),
        ({"space": {"train": {"learning_rate": {"low": 0.1, "high": 0.2, "step": 0.1, "log": True}}}}, "rate: "),
        (
            {"space": {"train": {"batch_size": []}}},
            "space.train.batch_size: an empty list, allowed: one or more",
        ),
        ({"space": {"train": {"batch_size": 5}}}, "space.train.batch_size"),
        ({"space": [1]}, "space: "),
        ({"trials": 5}, "trials: "),
        ({"prune": {"after_trials": 0}}, "prune.after_trials: "),
        ({"settings": {"prepare": {"validation_size": 0}}}, "validation images, and prepare.validation_size is 0"),
        ({"settings": {"train": {"epochs": "ten"}}}, "train.epochs: got 'ten', allowed: "),
    ],
)
def test_what_is_no_space_is_refused_with_the_key_that_is_wrong(space, changes, message):
    with pytest.raises(InputError) as refused:
        space(SPACE | changes)
    assert "space.yaml: " in str(refused.value)
    assert message in str(refused.value)


def test_the_projects_own_space_is_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    spaces = sorted((ROOT / "searches").glob("*.yaml"))
    assert spaces
    for path in spaces:
        assert len(read_space(path).distributions) > 1
