import re
import signal
import tracemalloc

import pytest
import torch

from tests.conftest import as_split
from vae.errors import Interrupted
from vae.training import checkpoints, loop
from vae.training.data import Data
from vae.training.loop import train


def make_state(number):
    return {
        "progress": {"epoch": number, "history": [{"elbo": -1.5, "epoch": 1}], "snapshots": {2: torch.ones(2)}},
        "tensors": {"order": torch.arange(number), "totals": torch.tensor([0.1, 0.2], dtype=torch.float64)},
        "random": torch.get_rng_state(),
    }


def assert_state(state, number):
    expected = make_state(number)
    assert state["progress"].pop("snapshots")[2].tolist() == [1, 1]
    expected["progress"].pop("snapshots")
    assert state["progress"] == expected["progress"]
    assert torch.equal(state["random"], expected["random"])
    for name, tensor in expected["tensors"].items():
        assert torch.equal(state["tensors"][name], tensor)
        assert state["tensors"][name].dtype == tensor.dtype


def damage(path, how):
    contents = path.read_bytes()
    flipped = contents[:-50] + bytes([contents[-50] ^ 1]) + contents[-49:]
    damaged = {
        "empty": b"",
        "short": contents[:20],
        "truncated": contents[:-1],
        "garbage": b"x" * 500,
        "a bit": flipped,
    }
    path.write_bytes(damaged[how])


DAMAGES = ["empty", "short", "truncated", "garbage", "a bit"]


# --- Files


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoints.write(tmp_path / "new", make_state(3))
    assert_state(checkpoints.read(tmp_path / "new"), 3)


def test_without_a_checkpoint_there_is_no_state(tmp_path):
    assert checkpoints.read(tmp_path) is None
    assert checkpoints.read(tmp_path / "absent") is None


def test_the_newest_state_is_read(tmp_path):
    for number in (1, 2, 3):
        checkpoints.write(tmp_path, make_state(number))
    assert_state(checkpoints.read(tmp_path), 3)


def test_two_states_are_kept_and_no_more(tmp_path):
    for number in (1, 2, 3):
        checkpoints.write(tmp_path, make_state(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.pt", "last.pt"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_state_makes_way_for_the_one_before_and_is_named(tmp_path, how, capsys):
    for number in (1, 2):
        checkpoints.write(tmp_path, make_state(number))
    damage(tmp_path / "last.pt", how)
    assert_state(checkpoints.read(tmp_path), 1)
    captured = capsys.readouterr()
    assert "last.pt: damaged" in captured.out + captured.err


@pytest.mark.parametrize("how", DAMAGES)
def test_when_both_are_damaged_there_is_no_state(tmp_path, how):
    for number in (1, 2):
        checkpoints.write(tmp_path, make_state(number))
    for name in ("last.pt", "before.pt"):
        damage(tmp_path / name, how)
    assert checkpoints.read(tmp_path) is None


def test_a_damaged_state_never_becomes_the_reserve(tmp_path):
    for number in (1, 2):
        checkpoints.write(tmp_path, make_state(number))
    damage(tmp_path / "last.pt", "garbage")
    assert_state(checkpoints.read(tmp_path), 1)
    checkpoints.write(tmp_path, make_state(3))
    damage(tmp_path / "last.pt", "garbage")
    assert_state(checkpoints.read(tmp_path), 1)


class Malicious:
    def __reduce__(self):
        return print, ("a pickle was run",)


def test_no_pickle_is_run(tmp_path, capsys):
    checkpoints.write(tmp_path, {"state": Malicious()})
    assert checkpoints.read(tmp_path) is None
    output = capsys.readouterr().out
    assert "Weights only load failed" in output
    assert "a pickle was run" not in output


def test_removing_takes_the_folder_and_forgives_its_absence(tmp_path):
    checkpoints.write(tmp_path / "run", make_state(1))
    checkpoints.remove(tmp_path / "run")
    checkpoints.remove(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_removing_leaves_what_was_put_there_by_others(tmp_path):
    checkpoints.write(tmp_path / "run", make_state(1))
    (tmp_path / "run/notes.txt").touch()
    checkpoints.remove(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


# --- Identity


IDENTITY = ({"epochs": 3, "widths": [1, 2]}, ["2.9.0", 4], b"code", torch.arange(6, dtype=torch.uint8).reshape(2, 3))


def test_a_digest_is_16_hexadecimal_digits_that_repeat():
    assert checkpoints.digest(*IDENTITY) == checkpoints.digest(*IDENTITY)
    assert len(checkpoints.digest(*IDENTITY)) == 16
    assert int(checkpoints.digest(*IDENTITY), 16) > 0


def test_the_order_of_keys_and_the_layout_in_memory_do_not_matter():
    _, versions, code, tensor = IDENTITY
    reordered = {"widths": [1, 2], "epochs": 3}
    transposed = tensor.T.contiguous().T
    assert checkpoints.digest(reordered, versions, code, transposed) == checkpoints.digest(*IDENTITY)


@pytest.mark.parametrize(
    ("index", "other"),
    [
        (0, {"epochs": 4, "widths": [1, 2]}),
        (0, {"epochs": 3, "widths": [2, 1]}),
        (0, {"epochs": 3, "width": [1, 2]}),
        (1, ["2.9.1", 4]),
        (2, b"Code"),
        (3, torch.tensor([[0, 1, 2], [3, 4, 6]], dtype=torch.uint8)),
    ],
)
def test_a_digest_depends_on_every_part(index, other):
    changed = [*IDENTITY[:index], other, *IDENTITY[index + 1 :]]
    assert checkpoints.digest(*changed) != checkpoints.digest(*IDENTITY)


def test_a_digest_depends_on_where_one_part_ends():
    assert len({checkpoints.digest(*parts) for parts in [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"c", b"ab")]}) == 4


def test_a_digest_copies_no_tensor():
    large = torch.zeros(20_000_000, dtype=torch.uint8)
    tracemalloc.start()
    try:
        checkpoints.digest(large)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


PARTS = {
    "settings": {"model.latent_dim": 3, "train.learning_rate": 0.01, "train.schedule": "cosine"},
    "data": {"train": "ab", "dataset": "digits"},
    "code": {"vae/model": "12", "vae/training": "34"},
    "versions": {"torch": "2.9.0"},
    "device": "CPU (Linux)",
    "threads": 2,
}


def make_run(scratch, **parts):
    """A run's folder with a state in it; each part given is replaced, or changed by keys."""
    changed = {name: PARTS[name] | part if isinstance(part, dict) else part for name, part in parts.items()}
    folder = checkpoints.claim(scratch, PARTS | changed)
    checkpoints.write(folder, make_state(1))
    return folder


def test_a_run_has_a_folder_by_all_that_it_depends_on(tmp_path):
    own = make_run(tmp_path)
    assert checkpoints.claim(tmp_path, PARTS) == own
    assert checkpoints.read(own) is not None
    changes = [{"settings": {"model.latent_dim": 4}}, {"data": {"train": "cd"}}, {"threads": 1}, {"device": "GPU"}]
    assert len({own, *(make_run(tmp_path, **change) for change in changes)}) == 5


def test_other_runs_are_the_neighboring_folders_that_hold_a_state(tmp_path):
    own = checkpoints.claim(tmp_path, PARTS)
    assert checkpoints.others(tmp_path, PARTS) == {}
    checkpoints.claim(tmp_path, PARTS | {"threads": 4})
    (tmp_path / "lock").touch()
    assert checkpoints.others(tmp_path, PARTS) == {}
    assert checkpoints.claim(tmp_path, PARTS) == own
    assert sorted(tmp_path.iterdir()) == sorted([own, tmp_path / "lock"]), "what ended without a state is cleared away"
    other = make_run(tmp_path, threads=1)
    (other / "last.pt").rename(other / "before.pt")
    own = checkpoints.claim(tmp_path, PARTS)
    assert list(checkpoints.others(tmp_path, PARTS)) == [other]


def cut_short(scratch, moment):
    """What is left of a run that was killed while its folder was made, or while it was removed."""
    folder = make_run(scratch, threads=1)
    checkpoints.write(folder, make_state(2))
    kept = {
        "before its identity": [],
        "amid its identity": [".identity.json.1-01234567.tmp"],
        "amid its first state": ["identity.json", ".next.pt.1-01234567.tmp"],
        "before the first rename": ["identity.json", "next.pt"],
        "amid its removal": ["identity.json", "last.damaged"],
        "at the end of its removal": ["identity.json"],
    }[moment]
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    for name in kept:
        (folder / name).touch()
    return folder


@pytest.mark.fault
@pytest.mark.parametrize(
    "moment",
    [
        *("before its identity", "amid its identity", "amid its first state", "before the first rename"),
        *("amid its removal", "at the end of its removal"),
    ],
)
def test_a_folder_cut_short_without_a_state_is_removed_by_the_next_run(tmp_path, moment):
    cut_short(tmp_path, moment)
    own = checkpoints.claim(tmp_path, PARTS)
    assert list(tmp_path.iterdir()) == [own]


def test_folders_of_others_are_left_alone(tmp_path):
    for name in ("notes", "0123456789abcdef/mine", "0123456789abcdeg/identity.json", "stage.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = set(tmp_path.rglob("*"))
    checkpoints.claim(tmp_path, PARTS)
    assert before < set(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"settings": {"train.learning_rate": 0.1}}, "settings (train.learning_rate)"),
        ({"settings": {"train.epochs": 5, "train.schedule": "constant"}}, "settings (train.schedule, train.epochs)"),
        ({"data": {"train": "cd"}}, "data (train)"),
        ({"code": {"vae/training": "56"}}, "code (vae/training)"),
        ({"versions": {"torch": "2.14.1"}}, "versions (torch)"),
        ({"device": "NVIDIA H200 (Linux)"}, "device (NVIDIA H200 (Linux), here CPU (Linux))"),
        ({"settings": {"model.latent_dim": 4}, "threads": 1}, "settings (model.latent_dim) and threads (1, here 2)"),
        ({"data": {"train": "c"}, "code": {"a": "b"}, "threads": 1}, "data (train), code (a) and threads (1, here 2)"),
    ],
)
def test_what_another_runs_state_differs_in_is_named(tmp_path, changes, reason):
    other = make_run(tmp_path, **changes)
    checkpoints.claim(tmp_path, PARTS)
    assert checkpoints.others(tmp_path, PARTS) == {other: f"it was made with different {reason}"}


@pytest.mark.parametrize("contents", [None, "", "{", "\xff"])
def test_a_state_of_an_older_version_says_no_more_than_that(tmp_path, contents):
    other = tmp_path / "0123"
    checkpoints.write(other, make_state(1))
    if contents is not None:
        (other / "identity.json").write_text(contents, encoding="latin-1")
    (reason,) = checkpoints.others(tmp_path, PARTS).values()
    assert reason == "it does not say what it was made with (no readable identity.json)"


# --- Resumption


@pytest.fixture
def folder(tmp_path):
    """Where a run keeps its checkpoints."""
    return tmp_path / "checkpoints"


@pytest.fixture
def data(digits):
    """150 digits to train on, 60 to validate, 5 to show: three steps per epoch."""
    return Data(as_split(digits[:150]), as_split(digits[150:210]), as_split(digits[-5:]), binarize=True)


@pytest.fixture
def run(make_model, make_train, lean):
    """Give a function: a run with its own seed of weights and random numbers, and the model that it leaves."""

    def make(data, folder=None, seed=0, device=lean, **keys):
        model = make_model(seed=seed).to(device)
        torch.manual_seed(seed)
        return train(model, data, make_train(**{"checkpoint_every": 100} | keys), folder), model

    return make


class Killed(Exception):
    """Simulates the end of the process: nothing is saved."""


@pytest.fixture
def at_step(monkeypatch):
    """Give a function: act once, after the given number of further steps."""
    call = loop.Step.__call__

    def arrange(number, act):
        counted = []

        def counting(step, size):
            call(step, size)
            counted.append(size)
            if len(counted) == number:
                act()

        monkeypatch.setattr(loop.Step, "__call__", counting)

    return arrange


@pytest.fixture(autouse=True)
def unhandled():
    """Turn signals that training does not catch into failures, not into the end of pytest."""

    def fail(number, _):
        raise AssertionError(f"signal {number} was not caught")

    before = {number: signal.signal(number, fail) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def terminate():
    signal.raise_signal(signal.SIGTERM)


def kill():
    raise Killed


def assert_same_result(result, expected):
    (progress, model), (expected_progress, expected_model) = result, expected
    assert progress.history == expected_progress.history
    assert (progress.epoch, progress.best_epoch) == (expected_progress.epoch, expected_progress.best_epoch)
    assert list(progress.snapshots) == list(expected_progress.snapshots)
    for epoch, images in expected_progress.snapshots.items():
        assert torch.equal(progress.snapshots[epoch], images)
    for name, tensor in expected_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def without_validation(data):
    return Data(data.train, None, data.showcase, data.binarize)


RUNS = [
    {"schedule": "one_cycle"},
    {"schedule": "cosine", "ema_decay": 0.8, "snapshot_epochs": [1, 2, 3]},
    {"schedule": "constant", "gradient_clip": 5, "kl_warmup_epochs": 2},
    {"schedule": "constant", "ema_decay": 0.8, "patience": 1, "learning_rate": 0.3},
]


def describe(changes):
    return ", ".join(f"{key} {value}" for key, value in changes.items())


# After the first of three steps per epoch, in the second epoch, and at once after the next start.
@pytest.mark.parametrize("validated", [True, False], ids=["with validation", "without"])
@pytest.mark.parametrize("changes", RUNS, ids=describe)
def test_a_run_interrupted_several_times_ends_with_the_same_bytes(
    run, data, folder, at_step, changes, validated, device
):
    data = data if validated else without_validation(data)
    expected = run(data, device=device, epochs=4, **changes)
    # From the second start on all must come from the checkpoint: weights and random numbers begin as others.
    for seed, steps in enumerate((1, 3, 1)):
        at_step(steps, terminate)
        with pytest.raises(Interrupted):
            run(data, folder, seed, device, epochs=4, **changes)
    assert_same_result(run(data, folder, 9, device, epochs=4, **changes), expected)


@pytest.mark.parametrize("steps", range(1, 10))
def test_a_run_may_be_interrupted_after_any_step(run, data, folder, at_step, steps):
    expected = run(data, ema_decay=0.8)
    at_step(steps, terminate)
    with pytest.raises(Interrupted):
        run(data, folder, ema_decay=0.8)
    assert_same_result(run(data, folder, seed=9, ema_decay=0.8), expected)


@pytest.mark.parametrize("steps", [2, 4, 7, 8])
def test_a_killed_run_resumes_from_its_last_checkpoint(run, data, folder, at_step, steps):
    expected = run(data)
    at_step(steps, kill)
    with pytest.raises(Killed):
        run(data, folder, checkpoint_every=1)
    finished = (steps - 1) // 3
    assert (checkpoints.read(folder) or {"progress": {"epoch": 0}})["progress"]["epoch"] == finished
    assert_same_result(run(data, folder, seed=9 if finished else 0), expected)


def test_checkpoints_are_written_at_the_given_interval(run, data, folder, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoints, "write", lambda _, state: written.append(state["progress"]["epoch"]))
    run(data, folder, epochs=7, checkpoint_every=3)
    assert written == [3, 6]


def test_no_checkpoint_is_written_without_a_folder(run, data, monkeypatch):
    monkeypatch.setattr(checkpoints, "write", lambda *_: pytest.fail("written"))
    run(data, epochs=2, keep_checkpoint=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_at_the_end_of_its_step_and_raises(run, data, folder, at_step, number, status):
    at_step(5, lambda: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=f"{number.name} in epoch 2, after step 2; the state is saved") as caught:
        run(data, folder)
    assert caught.value.status == status
    state = checkpoints.read(folder)
    assert (state["progress"]["epoch"], state["progress"]["batch"]) == (1, 2)
    assert state["tensors"]["counters"].tolist() == [5, 2]


def test_a_signal_without_a_folder_for_checkpoints_claims_nothing_saved(run, data, at_step):
    at_step(2, terminate)
    with pytest.raises(Interrupted, match=r"SIGTERM in epoch 1, after step 2$"):
        run(data)


def test_handlers_are_put_back_after_an_interruption(run, data, at_step):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    at_step(2, terminate)
    with pytest.raises(Interrupted):
        run(data)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_tf32_ends_with_an_interruption(run, data, at_step):
    at_step(2, terminate)
    with pytest.raises(Interrupted):
        run(data, precision="tf32")
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_resumed_run_says_where_it_resumes(run, data, folder, at_step, capsys):
    at_step(5, terminate)
    with pytest.raises(Interrupted):
        run(data, folder)
    capsys.readouterr()
    run(data, folder)
    captured = capsys.readouterr()
    assert re.search(r"resuming from checkpoint\D*1\b\D*2\b", captured.out + captured.err)


def test_a_damaged_checkpoint_costs_time_but_not_the_result(run, data, folder, at_step):
    expected = run(data)
    for steps in (2, 3):
        at_step(steps, terminate)
        with pytest.raises(Interrupted):
            run(data, folder)
    damage(folder / "last.pt", "truncated")
    assert_same_result(run(data, folder, seed=9), expected)


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.8, "snapshot_epochs": [2, 3]}, {"kl_warmup_epochs": 3}])
@pytest.mark.parametrize("validated", [True, False], ids=["with validation", "without"])
def test_a_kept_checkpoint_and_more_epochs_equal_a_run_from_scratch(run, data, folder, changes, validated):
    data = data if validated else without_validation(data)
    changes = changes | {"schedule": "constant", "keep_checkpoint": True}
    expected = run(data, epochs=5, **changes)
    for seed, epochs in [(0, 2), (8, 4), (9, 5)]:
        result = run(data, folder, seed=seed, epochs=epochs, **changes)
    assert_same_result(result, expected)


def test_a_finished_run_is_only_read_again(run, data, folder, at_step):
    changes = {"schedule": "constant", "keep_checkpoint": True}
    expected = run(data, folder, **changes)
    at_step(1, kill)
    assert_same_result(run(data, folder, seed=9, **changes), expected)


@pytest.mark.parametrize("steps", [5, 9], ids=["amid an epoch", "at its end"])
def test_fewer_epochs_than_the_checkpoint_has_start_anew(run, data, folder, at_step, steps):
    expected = run(data, schedule="constant", epochs=1)
    at_step(steps, terminate)
    with pytest.raises(Interrupted):
        run(data, folder, schedule="constant", epochs=3)
    assert_same_result(run(data, folder, schedule="constant", epochs=1), expected)
