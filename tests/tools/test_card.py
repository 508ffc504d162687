"""The model card."""

import hashlib
import json
import re

import pytest

from tests.tools.conftest import run_metrics, values_by_image, write_run
from tools.card import main, model_card, write_card
from vae.files import read_tensors


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, 1, 3)
    metrics = run_metrics(values_by_image(1)) | {"neighbor_accuracy": 0.9574}
    (tmp_path / "metrics/evaluate.json").write_text(json.dumps(metrics))
    return tmp_path


def rows(card):
    """The cells of the table of metrics, by key."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    return {line[-1].strip("`"): line[:-1] for line in lines[2:]}


def test_the_card_says_what_the_files_say(folder):
    path = write_card(folder)
    assert path == folder / "data/model-card.md"
    card = path.read_text()
    metrics = run_metrics(values_by_image(1))
    value, error = f"{metrics['test_nll']:.2f}", f"{metrics['test_nll_stderr']:.2f}"
    assert rows(card)["test_nll"] == ["Negative log-likelihood", value, error, "nats per image"]
    assert rows(card)["surprise_<b>"] == ["surprise_<b>", "0.5", "", ""]
    assert not any(key.endswith("_stderr") for key in rows(card))
    assert "- `model.latent_dim`: 3\n" in card and "- `model.encoder_widths`: 8\n" in card
    assert "- `evaluate.importance_samples`: 500\n" in card
    weights = folder / "data/model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    # Layers 64-8, 8-6, 3-8 and 8-64 and their biases.
    assert f"{64 * 8 + 8 + 8 * 6 + 6 + 3 * 8 + 8 + 8 * 64 + 64:,} parameters" in card
    assert "Digits (8 x 8), dynamic binarization, 2 epochs" in card
    assert re.search(r"get 95\.7% of test images right", card)


def test_equal_files_make_equal_cards(folder):
    first = write_card(folder).read_bytes()
    assert write_card(folder).read_bytes() == first


@pytest.mark.parametrize(
    ("model", "binarization", "words"),
    [
        ({}, "dynamic", "one stored draw of binary pixels"),
        ({"likelihood": "relaxed_bernoulli"}, "none", "not log-likelihoods"),
        ({"likelihood": "continuous_bernoulli"}, "none", "densities or masses of gray pixels"),
        ({"condition": "label"}, "dynamic", "labels are among its inputs"),
    ],
)
def test_the_limits_follow_the_model(folder, model, binarization, words):
    _, metadata = read_tensors(folder / "data/model.safetensors")
    metadata |= {"binarization": binarization, "model": metadata["model"] | model}
    assert words in model_card(metadata, {"relaxed_test_nll": 9.0}, {}, 1, 1, "0")


def test_provenance_is_what_the_training_wrote(folder):
    _, metadata = read_tensors(folder / "data/model.safetensors")
    assert "- torch: `2.99`\n" in model_card(metadata | {"provenance": {"torch": "2.99"}}, {}, {}, 1, 1, "0")


@pytest.mark.parametrize("missing", ["data/model.safetensors", "metrics/evaluate.json", "params.yaml"])
def test_a_run_without_its_files_is_refused(folder, monkeypatch, capsys, missing):
    (folder / missing).unlink()
    monkeypatch.setattr("sys.argv", ["card", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert missing.split("/")[0] in capsys.readouterr().err
    assert not (folder / "data/model-card.md").exists()
