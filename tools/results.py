"""Compare the runs of experiments with published numbers: `python -m tools.results` writes docs/results.md.

All figures come from the records that `python -m tools.run NAME --folder FOLDER --record` leaves in
experiments/results/; none are entered by hand.
"""

import json
import math
from pathlib import Path
from typing import Any

from tools.run import EXPERIMENTS, names, read_experiment
from tools.tables import table
from vae.errors import InputError
from vae.files import replacing

RECORDS = EXPERIMENTS / "results"
PAGE = Path("docs/results.md")

BURDA, TOMCZAK, XU = "Burda et al. 2015", "Tomczak & Welling 2018", "Xu et al. 2019, not yet their protocol"
# NLL in nats on dynamically binarized MNIST, as published.
PUBLISHED = {
    "iwae-table-1/vae-1-layer-k1": (86.76, BURDA),
    "iwae-table-1/vae-1-layer-k5": (86.47, BURDA),
    "iwae-table-1/vae-1-layer-k50": (86.35, BURDA),
    "iwae-table-1/vae-2-layers-k1": (85.33, BURDA),
    "iwae-table-1/vae-2-layers-k5": (85.01, BURDA),
    "iwae-table-1/vae-2-layers-k50": (84.78, BURDA),
    "iwae-table-1/iwae-1-layer-k5": (85.54, BURDA),
    "iwae-table-1/iwae-1-layer-k50": (84.78, BURDA),
    "iwae-table-1/iwae-2-layers-k5": (83.89, BURDA),
    "iwae-table-1/iwae-2-layers-k50": (82.90, BURDA),
    "gated-mlp": (84.50, TOMCZAK),
    "vampprior": (82.38, TOMCZAK),
    "hvae-vampprior": (81.24, TOMCZAK),
    "realnvp-prior": (78.49, XU),
}
COLUMNS = {
    "experiment": "{experiment}",
    "published NLL": "{published}",
    "departures": "{departures}",
    "test NLL": "{nll}",
    "test ELBO": "{elbo}",
    "epochs": "{epochs}",
    "importance samples": "{samples}",
    "time": "{time}",
    "machine, date": "{where}",
}
# Pairs that differ in one part, the part known to be better first: (better, worse).
ORDERS = [
    ("short/iwae-k50", "short/vae-k1"),
    ("short/vampprior", "short/standard-prior"),
    ("short/realnvp-prior", "short/standard-prior"),
    ("short/iaf-8-latents", "short/diagonal-8-latents"),
    ("short/iaf-posterior", "short/standard-prior"),
]
NOT_RUN_COLUMNS = {key: COLUMNS[key] for key in ("experiment", "published NLL", "departures", "epochs")}
DEPARTS = "# Departs: "  # how a line of an experiment's file begins that names a departure from its paper's protocol
ORDER_COLUMNS = {
    "better": "{better}",
    "worse": "{worse}",
    "epochs each": "{epochs}",
    "NLL lower by": "{gain:.2f}",
    "standard error": "{error:.2f}",
    "in standard errors": "{ratio:.1f}",
}
INTRODUCTION = """\
# Results

Test NLL and ELBO are in nats per image on the stored draw of MNIST's test set, ± their standard error over images;
lower NLL is better. This page is written by `python -m tools.results` from the records in `experiments/results/`, each
of which holds its command, machine, versions and date.

## Runs

If a row says "10 of 3280" epochs, the run was cut short with `-S train.epochs=10`: compare it with other rows of that
budget, not with the published number. The short runs shared two cores with other work, on one or two threads each, so
their times cannot be compared.
"""
NOT_RUN_INTRODUCTION = """\
## Not run

These experiments have no record, so it is unknown how close they come to the published numbers. At full length
most of them need a GPU. (`make demo` runs `demo`, but keeps no record.)
"""
DEPARTURES_INTRODUCTION = """\
## Departures from the papers' protocols

The numbers in the column "departures" are those of this list, which the files in `experiments/` state. What authors do
is what their released code does, or for Xu et al. 2019 what is known of it at second hand.
"""
ORDER_INTRODUCTION = """\
## Expected order at equal, short budgets

The two runs of each pair differ in one part only: they share networks, epochs, batch size, learning rate, seed and test
pixels. The last pair is out of order: with 40 latents the IAF learns more slowly at first and has not caught up within
this budget. With 8 latents it has. The standard error is that of a difference of two independent means; for the same
test images the true one is smaller.
"""


def row(name: str) -> dict[str, str]:
    """The page's row for one experiment."""
    epochs = read_experiment(name).get("train", {}).get("epochs", "as in params.yaml")
    number, source = PUBLISHED.get(name, (None, ""))
    known = all_departures()
    cells = {
        "experiment": name,
        "published": f"{number:.2f} ({source})" if number else "-",
        "departures": ", ".join(str(known.index(text) + 1) for text in departures(name)) or "-",
    }
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


def departures(name: str) -> list[str]:
    """In what an experiment departs from its paper's protocol, as comments in its file state."""
    lines = (EXPERIMENTS / f"{name}.yaml").read_text().splitlines()
    return [line.removeprefix(DEPARTS) for line in lines if line.startswith(DEPARTS)]


def all_departures() -> list[str]:
    """The departures of all experiments, each once, in the order of the experiments' names."""
    return list(dict.fromkeys(text for name in names() for text in departures(name)))


def read_record(name: str) -> dict[str, Any] | None:
    """The record of an experiment's run, or None if there is none."""
    path = RECORDS / f"{name.replace('/', '-')}.json"
    return json.loads(path.read_text()) if path.exists() else None


def order_row(better: str, worse: str) -> dict[str, Any]:
    """The difference between the test NLLs of two runs, with its standard error."""
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
    rows = {True: [], False: []}
    for name in names():
        rows[read_record(name) is not None].append(row(name))
    tables = [(INTRODUCTION, table(COLUMNS, rows[True]))]
    tables += [(ORDER_INTRODUCTION, table(ORDER_COLUMNS, [order_row(*pair) for pair in ORDERS]))]
    tables += [(NOT_RUN_INTRODUCTION, table(NOT_RUN_COLUMNS, rows[False]))]
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(all_departures(), start=1))
    tables += [(DEPARTURES_INTRODUCTION, listed)]
    page = "\n".join(f"{introduction}\n{lines}\n" for introduction, lines in tables)
    with replacing(PAGE) as file:
        file.write(page.encode())


if __name__ == "__main__":
    main()
