"""Set every experiment's run against the paper's number: `python -m experiments.results` writes docs/results.md.

The figures come from the records that `python -m experiments.run NAME --folder FOLDER --record` leaves in
experiments/results/, never from a hand.
"""

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.report import table
from experiments.run import EXPERIMENTS, names, read_experiment
from vae.errors import InputError
from vae.storage import replacing

RECORDS = EXPERIMENTS / "results"
PAGE = Path("docs/results.md")

BURDA, TOMCZAK, KINGMA, XU = (
    "Burda et al. 2015",
    "Tomczak & Welling 2018",
    "Kingma et al. 2016",
    "Xu et al. 2019",
)
# NLL in nats on dynamically binarized MNIST, as published.
PUBLISHED = {
    "iwae-table-1/vae-1-layer-k1": (86.76, BURDA),
    "iwae-table-1/vae-1-layer-k5": (86.47, BURDA),
    "iwae-table-1/vae-1-layer-k50": (86.35, BURDA),
    "iwae-table-1/iwae-1-layer-k5": (85.54, BURDA),
    "iwae-table-1/iwae-1-layer-k50": (84.78, BURDA),
    "iwae-table-1/vae-2-layers-k50": (84.78, BURDA),
    "iwae-table-1/iwae-2-layers-k50": (82.90, BURDA),
    "gated-mlp": (84.50, TOMCZAK),
    "vampprior": (82.38, TOMCZAK),
    "hvae-vampprior": (81.24, TOMCZAK),
    "iaf": (79.10, f"{KINGMA}, a ResNet"),
    "realnvp-prior": (78.61, XU),
}
COLUMNS = {
    "experiment": "{experiment}",
    "published NLL": "{published}",
    "test NLL": "{nll}",
    "test ELBO": "{elbo}",
    "epochs": "{epochs}",
    "importance samples": "{samples}",
    "time": "{time}",
    "machine, date": "{where}",
}
# What is known to be better, in pairs that differ in nothing else: (better, worse).
ORDERS = [
    ("short/iwae-k50", "short/vae-k1"),
    ("short/vampprior", "short/standard-prior"),
    ("short/realnvp-prior", "short/standard-prior"),
    ("short/iaf-8-latents", "short/diagonal-8-latents"),
    ("short/iaf-posterior", "short/standard-prior"),
]
ORDER_COLUMNS = {
    "better": "{better}",
    "worse": "{worse}",
    "epochs each": "{epochs}",
    "NLL lower by": "{gain:.2f}",
    "standard error": "{error:.2f}",
    "in standard errors": "{ratio:.1f}",
}
ORDER_INTRODUCTION = """\
## The known order, at equal, short budgets

Each pair differs in one part alone: same networks, epochs, batch size, learning rate, seed and test pixels.
The last pair is out of order: with 40 latents the IAF learns more slowly at first, and at this budget it has not caught
up. With 8 latents it has.
The standard error is that of a difference of two independent means; on the same test images the true one is smaller.
"""
INTRODUCTION = """\
# Results

Test NLL and ELBO are nats per image on the stored draw of MNIST's test set, ± their standard error over images; lower
NLL is better. This page is written by `python -m experiments.results` from the records in `experiments/results/`, each
of which names its command, machine, versions and date. Where a row says "10 of 3280" epochs, the run was cut short with
`-S train.epochs=10`: it can be compared with other rows of that budget, not with the published number.
Rows without a figure have not been run: no GPU was at hand, and at full length most of them need one. The short runs
shared their two cores with other work, each on one thread or two, so their times compare with nothing.
"""


def row(name: str) -> dict[str, str]:
    """What the page says of one experiment."""
    epochs = read_experiment(name).get("train", {}).get("epochs", "as in params.yaml")
    number, source = PUBLISHED.get(name, (None, ""))
    cells = {"experiment": name, "published": f"{number:.2f} ({source})" if number else "-"}
    record = read_record(name)
    if record is None:
        return cells | dict.fromkeys(("nll", "elbo", "time", "where"), "-") | {"epochs": f"{epochs}", "samples": "-"}
    metrics, ran = record["metrics"], record["settings"]["train"]["epochs"]
    relaxed = "relaxed_" if "relaxed_test_nll" in metrics else ""
    note = " (no likelihood)" if relaxed else ""
    return cells | {
        "nll": f"{metrics[f'{relaxed}test_nll']:.2f} ± {metrics[f'{relaxed}test_nll_stderr']:.2f}{note}",
        "elbo": f"{metrics[f'{relaxed}test_elbo']:.2f} ± {metrics[f'{relaxed}test_elbo_stderr']:.2f}{note}",
        "epochs": f"{ran}" if epochs in (ran, "as in params.yaml") else f"{ran} of {epochs}",
        "samples": f"{record['settings']['evaluate']['importance_samples']}",
        "time": f"{record['seconds'] / 60:.1f} min",
        "where": f"{record['machine']['gpu'] or record['machine']['processor']}, {record['date']}",
    }


def read_record(name: str) -> dict[str, Any] | None:
    """What an experiment's run came to, or None where it has not been run."""
    path = RECORDS / f"{name.replace('/', '-')}.json"
    return json.loads(path.read_text()) if path.exists() else None


def order_row(better: str, worse: str) -> dict[str, Any]:
    """How far the test NLL of one run is below another's."""
    records = read_record(better), read_record(worse)
    if None in records:
        return {"better": better, "worse": worse, "epochs": "not run"}
    epochs = {record["settings"]["train"]["epochs"] for record in records}
    if len(epochs) > 1:
        raise InputError(f"{better}, {worse}: their runs differ in train.epochs; run them again with equal ones")
    (low, high), errors = ([record["metrics"][key] for record in records] for key in ("test_nll", "test_nll_stderr"))
    gain, error = high - low, math.hypot(*errors)
    values = {"epochs": f"{epochs.pop()}", "gain": gain, "error": error, "ratio": gain / error}
    return {"better": better, "worse": worse} | values


def main() -> None:
    """Write the page."""
    tables = [(INTRODUCTION, table(COLUMNS, [row(name) for name in names()]))]
    tables += [(ORDER_INTRODUCTION, table(ORDER_COLUMNS, [order_row(*pair) for pair in ORDERS]))]
    page = "\n".join(f"{introduction}\n{rows}\n" for introduction, rows in tables)
    with replacing(PAGE) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
