"""Checkpoints whose checksum is right and whose contents are not: each is set aside before any of it is used."""

import hashlib
import math
import signal

import pytest
import torch

from tests.conftest import as_split
from vae.errors import Interrupted, WorkError
from vae.training import checkpoints, loop
from vae.training.data import Data
from vae.training.loop import train

SETTINGS = {"ema_decay": 0.8, "snapshot_epochs": [1], "epochs": 3}


@pytest.fixture
def data(digits):
    """150 digits to train on, 60 to validate, 5 to show: three steps per epoch."""
    return Data(as_split(digits[:150]), as_split(digits[150:210]), as_split(digits[-5:]), binarize=True)


@pytest.fixture
def run(make_model, make_train, lean):
    """Give a function: a run that stops after some steps, if it is given how many, and the model that it leaves."""

    def make(data, folder=None, seed=0, stop=None, **keys):
        model = make_model(seed=seed)
        torch.manual_seed(seed)
        call, calls = loop.Step.__call__, []

        def counting(step, size):
            call(step, size)
            calls.append(size)
            if len(calls) == stop:
                signal.raise_signal(signal.SIGTERM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Step, "__call__", counting)
            progress = train(model, data, make_train(**SETTINGS | {"checkpoint_every": 100} | keys), folder)
        return progress, model

    return make


def change(**values):
    return lambda part: part.update(values)


def progress(mutate):
    return lambda state: mutate(state["progress"])


def tensors(mutate):
    return lambda state: mutate(state["tensors"])


def row(mutate):
    return lambda state: mutate(state["progress"]["history"][0])


def scaled(name, factor):
    """Multiply a tensor."""
    return tensors(lambda found: found.update({name: found[name] * factor}))


# After the second of three steps of the second epoch.
NONSENSE = {
    "an empty state": lambda state: state.clear(),
    "no tensors": lambda state: state.pop("tensors"),
    "no progress": lambda state: state.pop("progress"),
    "no random state": lambda state: state.pop("random"),
    "an unknown part": change(more=1),
    "a random state that is short": lambda state: state.update(random=state["random"][:100]),
    "a random state of numbers": lambda state: state.update(random=state["random"].float()),
    "a random state that is a text": change(random="0"),
    "progress that is a list": change(progress=[]),
    "progress with an unknown key": progress(change(more=1)),
    "progress without weights": progress(lambda found: found.pop("best")),
    "an epoch that is a text": progress(change(epoch="1")),
    "a fraction of an epoch": progress(change(epoch=1.0)),
    "another epoch": progress(change(epoch=2)),
    "a negative epoch": progress(change(epoch=-1)),
    "a negative batch": progress(change(batch=-1)),
    "another batch": progress(change(batch=1)),
    "a batch beyond the epoch": progress(change(batch=9)),
    "a best epoch to come": progress(change(best_epoch=2)),
    "no best epoch": progress(change(best_epoch=0)),
    "no history": progress(change(history=[])),
    "a history that is too long": progress(lambda found: found["history"].append(found["history"][0])),
    "a history of texts": row(change(train_elbo="high")),
    "a history without a column": row(lambda found: found.pop("validation_elbo")),
    "a history with another column": row(change(more=1.0)),
    "a history that is not finite": row(change(validation_elbo=math.nan)),
    "a history of another epoch": row(change(epoch=7)),
    "an error of something else": progress(lambda found: found["errors"].update(more=0.1)),
    "a negative error": progress(lambda found: found["errors"].update(train_elbo=-0.1)),
    "an error that is not finite": progress(lambda found: found["errors"].update(validation_elbo=math.inf)),
    "best weights of another name": progress(lambda found: found["best"].update(more=torch.zeros(1))),
    "best weights of another shape": progress(
        lambda found: found.update(best={n: t[:1] for n, t in found["best"].items()})
    ),
    "best weights that are not finite": progress(lambda found: next(iter(found["best"].values())).fill_(math.inf)),
    "no snapshot": progress(change(snapshots={})),
    "a snapshot of another shape": progress(change(snapshots={1: torch.zeros(5, 1, 7, 7)})),
    "a snapshot of another epoch": progress(lambda found: found.update(snapshots={2: found["snapshots"][1]})),
    "an unknown tensor": tensors(change(more=torch.zeros(1))),
    "a missing tensor": tensors(lambda found: found.pop("losses")),
    "a tensor that is a number": tensors(change(losses=0.0)),
    "a tensor of another type": tensors(lambda found: found.update(losses=found["losses"].double())),
    "a tensor of another shape": tensors(lambda found: found.update(losses=found["losses"][:2])),
    "an order with a repetition": tensors(lambda found: found["order"].__setitem__(0, found["order"][1])),
    "an order beyond the images": tensors(lambda found: found["order"].add_(1)),
    "counters of another step": tensors(lambda found: found["counters"].add_(1)),
    "a weight that is not finite": scaled("average.0", math.nan),
    "a gradient's mean that is not finite": scaled("gradient_means.0", math.nan),
    "a negative mean square": scaled("square_means.0", -1),
}


def replace(path, mutate):
    """Write a state that differs from the one there, with the right checksum."""
    folder = path.parent / "other"
    state = torch.load(path.parent / "raw", weights_only=True)
    mutate(state)
    checkpoints.write(folder, state)
    (folder / "last.pt").replace(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where the states of one interrupted run are kept for all tests of this file."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def interrupted(run, data, whole, tmp_path):
    """A folder with the state after the fifth step."""
    if not (whole / "last.pt").exists():
        with pytest.raises(Interrupted):
            run(data, whole, stop=5)
        (whole / "raw").write_bytes((whole / "last.pt").read_bytes()[32:])
    for name in ("last.pt", "raw"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def kept():
    """What the fixture `expected` computes only once."""
    return {}


@pytest.fixture
def expected(run, data, kept):
    """The result of an uninterrupted run."""
    if not kept:
        kept["result"] = run(data)
    return kept["result"]


def assert_same(result, expected):
    assert result[0].history == expected[0].history
    for name, tensor in expected[1].state_dict().items():
        assert torch.equal(result[1].state_dict()[name], tensor), name


def test_the_state_itself_is_used(run, data, interrupted, expected, capsys):
    replace(interrupted / "last.pt", lambda state: None)
    assert_same(run(data, interrupted, seed=9), expected)
    assert "resuming from checkpoint" in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_set_aside_and_the_checkpoint_before_it_used(run, data, interrupted, expected, capsys, kind):
    (interrupted / "before.pt").write_bytes((interrupted / "last.pt").read_bytes())
    replace(interrupted / "last.pt", NONSENSE[kind])
    assert_same(run(data, interrupted, seed=9), expected)
    output = capsys.readouterr().out
    assert f"{interrupted / 'last.pt'}: " in output
    assert "set aside; trying the checkpoint before it" in output
    assert "resuming from checkpoint" in output
    assert (interrupted / "last.damaged").exists()


def test_with_nothing_but_nonsense_training_begins_anew(run, data, interrupted, expected):
    replace(interrupted / "last.pt", NONSENSE["counters of another step"])
    assert_same(run(data, interrupted, seed=0), expected)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4" + b"\0" * 100])
def test_what_torch_cannot_read_is_set_aside(tmp_path, content, capsys):
    (tmp_path / "last.pt").write_bytes(hashlib.sha256(content).digest() + content)
    assert checkpoints.read(tmp_path) is None
    assert "last.pt: " in capsys.readouterr().out


# --- Divergence


@pytest.mark.fault
@pytest.mark.parametrize("stop", [2, 3])
def test_an_interruption_after_a_divergence_does_not_save_it(run, data, tmp_path, monkeypatch, stop):
    with pytest.raises(Interrupted):
        run(data, tmp_path, stop=1)
    before = (tmp_path / "last.pt").read_bytes()
    act = loop.Step._update

    def diverging(step, gradients):
        act(step, gradients)
        with torch.no_grad():
            step.parameters[0].fill_(math.nan)

    monkeypatch.setattr(loop.Step, "_update", diverging)
    # The weights are wrong after step 2, and from step 3 on the loss is.
    wrong = {2: "the weights are not finite after epoch 1, step 2 of 3", 3: "the loss is not finite at epoch 1, step 3"}
    with pytest.raises(WorkError, match=f"{wrong[stop]}.*lower train.learning_rate"):
        run(data, tmp_path, stop=stop - 1)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not (tmp_path / "before.pt").exists()
