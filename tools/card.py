"""Write a model card next to the weights: `python -m tools.card [FOLDER]` makes FOLDER/data/model-card.md.

It says what the model is, what it was trained on, how well it does, what it should not be used for, and where it comes
from, all based on data/model.safetensors, metrics/*.json and params.yaml. Equal files give equal bytes.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.revisions import read_yaml
from tools.tables import table
from vae.errors import InputError
from vae.evaluation.measures import BESIDE, MEASURES, RELAXED, STDERR
from vae.files import read_numbers, read_tensors, replacing
from vae.pictures.captions import DATASETS, describe
from vae.report.provenance import checksum

WEIGHTS, CARD = Path("data/model.safetensors"), Path("data/model-card.md")
SECTIONS = ("prepare", "model", "train", "evaluate", "sample")
COLUMNS = {"measure": "{name}", "value": "{value:>}", "standard error": "{error:>}", "unit": "{unit}", "key": "`{key}`"}
CARD_TEXT = """\
# Model card: variational autoencoder, {caption}

{weights} holds {parameters:,} parameters, {size:,} bytes. It is loaded with
`vae.load("{weights}")`, which gives `encode`, `decode`, `reconstruct` and `sample`.

## Data

Trained on {dataset} ({classes} classes), images of shape {shape}, with {pixels}.
The test images were not used for training; validation images, where there are any, chose the epoch that was kept.

## What it is for

Study and teaching: representations, reconstructions and samples of such images, and comparisons of likelihoods under
the same protocol.

## What it is not for

- Images of another kind, size or binarization: the model gives no sign that they are unfamiliar.
- Recognition that anyone relies on: {recognition}.
- Decisions about people, in whole or in part. The images are handwriting or clothes of few writers and makers, and
  represent no population.
- Detecting out-of-distribution images by likelihood alone, which is known to fail.
- {likelihood}

## Metrics

On the test set, from `metrics/`. Standard errors are over images and draws for these weights; another training seed
changes the values too. The uncertainty of measures without an error is unknown.

{metrics}

## Settings

{settings}

## Provenance

{provenance}
"""


def model_card(
    metadata: Mapping[str, Any],
    metrics: Mapping[str, float],
    settings: Mapping[str, Mapping[str, Any]],
    parameters: int,
    size: int,
    sha256: str,
) -> str:
    """The card in Markdown.

    Args:
        metadata: the metadata in the weights' file.
        metrics: the flat metrics of all stages; `X_stderr` is shown with `X`.
        settings: the sections of params.yaml; for the model and its training, those in the metadata are used.
        parameters: the number of parameters.
        size: the bytes of the weights' file.
        sha256: its checksum.
    """
    binary = metadata["binarization"] != "none"
    return CARD_TEXT.format(
        caption=describe(metadata, metadata["model"]["likelihood"]),
        weights=WEIGHTS,
        parameters=parameters,
        size=size,
        dataset=DATASETS[metadata["dataset"]],
        classes=len(metadata["classes"]),
        shape=" x ".join(map(str, metadata["image_shape"])),
        pixels=f"{metadata['binarization']} binarization" if binary else "gray pixels",
        recognition=_recognition(metadata, metrics),
        likelihood=_likelihood(metadata, binary),
        metrics=table(COLUMNS, _metric_rows(metrics)),
        settings=_settings({**settings, **metadata}),
        provenance=_provenance(metadata, sha256),
    )


def _recognition(metadata: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    if metadata["model"]["condition"] == "label":
        return "labels are among its inputs, so it cannot predict them"
    if "neighbor_accuracy" not in metrics:
        return "it was trained without labels"
    accuracy = f"{metrics['neighbor_accuracy']:.1%}"
    return f"it was trained without labels; nearest neighbors in its latent space get {accuracy} of test images right"


def _likelihood(metadata: Mapping[str, Any], binary: bool) -> str:
    if binary:
        return "Likelihoods of gray images: those stated here are of one stored draw of binary pixels."
    if metadata["model"]["likelihood"] == "relaxed_bernoulli":
        return (
            "Likelihoods at all: the loss on gray pixels is a cross-entropy; relaxed metrics are not log-likelihoods."
        )
    return "Likelihoods of binarized images: those stated here are densities or masses of gray pixels."


def _metric_rows(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    order = [*MEASURES]
    keys = sorted(
        (key for key in metrics if not key.endswith(BESIDE)), key=lambda key: [*order, key].index(_base(key, order))
    )
    return [_metric_row(key, metrics) for key in keys]


def _base(key: str, known: list[str]) -> str:
    return key.removeprefix(RELAXED) if key.removeprefix(RELAXED) in known else key


def _metric_row(key: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    measure = MEASURES.get(key.removeprefix(RELAXED))
    form = (measure and measure.form) or ".6g"
    error = metrics.get(f"{key}{STDERR}")
    return {
        "key": key,
        "name": (measure.name if measure else key) + (", relaxed: not a likelihood" if key.startswith(RELAXED) else ""),
        "value": format(metrics[key], form),
        "error": "" if error is None else format(error, form),
        "unit": measure.unit if measure else "",
    }


def _settings(sections: Mapping[str, Any]) -> str:
    chosen = ((name, sections[name]) for name in SECTIONS if name in sections)
    lines = [f"- `{name}.{key}`: {_setting(value)}" for name, values in chosen for key, value in values.items()]
    return "\n".join(lines)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _provenance(metadata: Mapping[str, Any], sha256: str) -> str:
    """The weights' checksum, and whatever the file says about its training, which depends on its version."""
    known = {"weights, SHA-256": sha256, **metadata.get("provenance", {})}
    return "\n".join(f"- {name}: `{value}`" for name, value in known.items())


def write_card(folder: Path) -> Path:
    """Write the card of the run in a folder.

    Raises:
        InputError: its weights or its metrics are missing or damaged.
    """
    weights, metadata = read_tensors(folder / WEIGHTS)
    paths = sorted((folder / "metrics").glob("*.json"))
    if not paths:
        raise InputError(f"{folder / 'metrics'}: no metrics; run `dvc repro` to create them")
    metrics = {key: value for path in paths for key, value in read_numbers(path).items()}
    parameters = sum(tensor.numel() for tensor in weights.values())
    size, sha256 = (folder / WEIGHTS).stat().st_size, checksum(folder / WEIGHTS)
    try:
        text = model_card(metadata, metrics, read_yaml(folder / "params.yaml"), parameters, size, sha256)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / WEIGHTS}: its metadata lacks {error}; run `dvc repro`") from error
    with replacing(folder / CARD) as file:
        file.write(text.encode())
    return folder / CARD


def main() -> None:
    """Write the card of the folder that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tools.card", description=__doc__.split("\n\n")[1])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the project's folder (this one)")
    try:
        print(write_card(parser.parse_args().folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
