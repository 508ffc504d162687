"""What names a run's checkpoints, and what its model says of the training."""

import pytest
import torch

from vae import ranks
from vae.errors import WorkError
from vae.settings import Train
from vae.training.data import Data
from vae.training.identity import check_same_on_ranks, identity_of, provenance

METADATA, CODE = {"dataset": "digits", "classes": ["0", "1"]}, {"some/code": "a1"}


@pytest.fixture
def identity(make_settings, data):
    """Give a function: the identity of a run with some keys of `train` changed, on this or other data."""

    def make(data=data, **keys):
        settings = make_settings(train=keys)
        return identity_of(settings.model, settings.train, data, METADATA, torch.device("cpu"), CODE)

    return make


def test_it_names_settings_data_code_versions_and_device(identity):
    found = identity()
    assert list(found) == ["settings", "data", "code", "versions", "device"]
    assert {"model.prior", "train.learning_rate"} <= found["settings"].keys()
    assert found["data"].keys() == {"dataset", "classes", "train", "validation", "showcase"}
    assert (found["code"], found["device"]) == (CODE, "cpu")
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_settings_without_effect_are_no_part_of_it(identity):
    assert not {f"train.{key}" for key in Train.WITHOUT_EFFECT} & identity()["settings"].keys()
    assert identity(checkpoint_every=7, processes=2) == identity()
    assert identity(seed=1) != identity()


def test_the_number_of_epochs_is_none_under_a_constant_rate(identity):
    assert identity(epochs=7) != identity(epochs=8)
    assert identity(epochs=7, schedule="constant") == identity(epochs=8, schedule="constant")


def test_every_image_and_label_counts(identity, data, unvalidated):
    labels = data.train.labels.clone()
    labels[3] += 1
    relabeled = Data(type(data.train)(data.train.images, labels), data.validation, data.showcase, data.binarize)
    assert identity(relabeled)["data"]["train"] != identity()["data"]["train"]
    assert identity(unvalidated)["data"].keys() == identity()["data"].keys() - {"validation"}


def test_ranks_that_would_train_something_else_are_refused(identity, monkeypatch):
    monkeypatch.setattr(ranks, "gather", lambda own: [own, own])
    check_same_on_ranks(identity())
    monkeypatch.setattr(ranks, "gather", lambda own: [own, own | {"device": "cuda"}])
    monkeypatch.setattr(ranks, "count", lambda: 2)
    with pytest.raises(WorkError, match=r"rank 1 of 2 has different device \(cuda, here cpu\) than rank 0; make them"):
        check_same_on_ranks(identity())


def test_provenance_names_a_compiler_and_several_processes_where_there_are(identity):
    alone = {"machine": "CPU (Linux, x86_64)", "processes": 1, "threads": 2}
    found = provenance(identity(), alone)
    assert found.keys() == {"code", "device", "torch", "pyro-ppl"}
    assert found["device"] == alone["machine"]
    together = provenance(identity(), alone | {"processes": 2, "compiler": "c++ 1.0"})
    assert together == found | {"processes": "2", "compiler": "c++ 1.0"}
