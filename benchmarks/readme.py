"""README's section about GPUs, made of the results of an acceptance run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.run import TABLES
from tools.tables import table
from vae.files import replacing

HEADING = "## With a GPU\n"
INTRODUCTION = """
`train.device: auto` uses a CUDA device if there is one. The data set then stays on the card, and the whole step
(draw, forward, backward, clipping, Adam, schedule, sums) is captured as a CUDA graph, as are
[eight steps in a row](docs/scaling.md#steps-on-a-gpu). If a step would wait for the host, training prints one line that
gives the reason and continues without a graph. `train.step: compiled` also fuses the operations before they are
captured, `eager` turns both off, and `train.precision` selects `float32`, `tf32` or `bfloat16`.
"""
UNPROVEN = """
**No GPU has run this version.** What is tested on CPUs: that a step reads no value on the host and sorts no indices,
over the whole family of models; that training, validation, evaluation, sampling and the classifier mix no devices; that
a stubbed capture leaves no trace, and that eight steps in one train as single ones do. The captured step itself, its
speed, bfloat16 and TF32 on a card, and `make gpu` have not been run on one. If you have a card, please run
"""
AGAIN = """
To try another card:
"""
COMMAND = """
```
make gpu
```

It runs the tests that need a GPU, the default training twice and once interrupted and resumed (the three models must
have equal checksums), the stages that judge it, captured and compiled steps next to eager ones, the other precisions
and the benchmark, within 10 minutes and without DVC or a network, and writes one page and one JSON file to
`benchmarks/results/`. It uses the `.venv` of this folder or else `python3`, and `data/raw` or `data/prepared` if they
are there. If a part fails, the exit status is 1; without a GPU it says so and exits with 2 (`make` itself
exits with 2 in both cases).
"""


def section(results: Mapping[str, Any] | None) -> str:
    """The section's text with its heading; `results` are those of an acceptance run, None if there was none."""
    proven = UNPROVEN if results is None else _proven(results) + AGAIN
    return f"{HEADING}{INTRODUCTION}{proven}{COMMAND}\n"


def newest(folder: Path) -> dict[str, Any] | None:
    """The results of the newest acceptance run on a GPU in a folder, None if there is none."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("acceptance-*.json"))]
    return max((results for results in found if results["machine"]["gpu"]), key=lambda each: each["date"], default=None)


def write(path: Path, results: Mapping[str, Any] | None) -> None:
    """Replace the section in the README at `path`."""
    before, _, after = path.read_text().partition(HEADING)
    _, _, following = after.partition("\n## ")
    with replacing(path) as file:
        file.write(f"{before}{section(results)}## {following}".encode())


def _proven(results: Mapping[str, Any]) -> str:
    rows = {row["part"]: row for row in results["parts"]}
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = ["", f"Run on {results['date']} on one {results['machine']['gpu']} ({versions}):", ""]
    columns = {"part": "{part}", "result": "{status}", "seconds": "{wall_seconds:.1f}"}
    elbo = {"train ELBO": "{train_elbo:.2f}", "test NLL": "{test_nll:.2f}"}
    lines.append(table(columns | elbo, results["parts"]))
    networks = rows.get("benchmark", {}).get("benchmark", {}).get("networks")
    if networks:
        lines += ["", "One epoch of 60,000 images:", "", table(TABLES["networks"], networks)]
    return "\n".join(lines) + "\n"
