"""What `auto` becomes: by the length of the run and the processor, never by a timing."""

import pytest
import torch

from vae.training import choices


@pytest.mark.parametrize(
    ("device", "epochs", "compiler", "expected"),
    [
        ("cpu", 1, "c++", "eager"),
        ("cpu", 99, "c++", "eager"),
        ("cpu", 100, "c++", "recorded"),
        ("cpu", 9_999, "c++", "recorded"),
        ("cpu", 10_000, "c++", "compiled"),
        ("cpu", 10_000, None, "recorded"),
        ("cuda", 1, "c++", "graph"),
        ("cuda", 10_000, "c++", "graph"),
    ],
)
def test_a_step_is_computed_by_the_way_that_pays(make_train, device, epochs, compiler, expected, monkeypatch):
    monkeypatch.setattr(choices, "compiler", lambda: compiler)
    settings = make_train(epochs=epochs, batch_size=64, step="auto", precision="float32")
    assert choices.resolved(settings, 64, torch.device(device)) == settings.model_copy(update={"step": expected})


@pytest.mark.parametrize(
    ("device", "avx512", "amx", "expected"),
    [
        ("cpu", True, False, "bfloat16"),
        ("cpu", False, True, "bfloat16"),
        ("cpu", False, False, "float32"),
        ("cuda", True, True, "float32"),
    ],
)
def test_precision_follows_the_processor(make_train, device, avx512, amx, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    settings = make_train(precision="auto")
    assert choices.resolved(settings, 100, torch.device(device)).precision == expected


def test_what_was_asked_for_stays(make_train):
    settings = make_train(step="eager", precision="tf32")
    assert choices.resolved(settings, 100, torch.device("cpu")) == settings
