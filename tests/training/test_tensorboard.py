import sys

import pytest

from vae.errors import SettingError
from vae.training.tensorboard import Curves

HISTORY = [{"epoch": epoch, "train_elbo": -95.5 + epoch, "learning_rate": 0.01 / epoch} for epoch in (1, 2, 3)]


def read(folder):
    """The curves in a folder as TensorBoard shows them: values by column and epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def expected(*epochs):
    # Event files hold float32.
    return {
        name: [(epoch, pytest.approx(HISTORY[epoch - 1][name], rel=1e-7)) for epoch in epochs]
        for name in ("train_elbo", "learning_rate")
    }


def test_each_column_is_a_curve_that_grows_epoch_by_epoch(tmp_path):
    curves = Curves(tmp_path)
    for epochs in (1, 2, 3):
        curves.write(HISTORY[:epochs])
        assert read(tmp_path) == expected(*range(1, epochs + 1))


def test_a_resumed_run_replaces_what_the_interrupted_one_wrote(tmp_path):
    interrupted = Curves(tmp_path)
    interrupted.write([row | {"train_elbo": 1.0} for row in HISTORY[:2]])
    resumed = Curves(tmp_path)
    resumed.write(HISTORY[:2])
    resumed.write(HISTORY)
    assert read(tmp_path) == expected(1, 2, 3)


def test_without_tensorboard_the_setting_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingError, match=r"train\.tensorboard: the package tensorboard is not installed"):
        Curves(tmp_path / "curves")
    assert not (tmp_path / "curves").exists()
