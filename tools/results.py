"""Compare the runs of experiments with published numbers: `python -m tools.results` writes docs/results.md.

All figures come from the records that `python -m tools.run NAME --folder FOLDER --record` leaves in
experiments/results/, one per training seed; none are entered by hand. All of them must come from the same code.
"""

import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tools import run
from tools.run import EXPERIMENTS, names, read_experiment
from tools.tables import table
from vae.errors import InputError
from vae.evaluation.uncertainty import over_draws, over_images
from vae.files import read_arrays, replacing

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
    "seeds": "{seeds}",
    "epochs": "{epochs}",
    "importance samples": "{samples}",
    "time per seed": "{time}",
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
    "seeds": "{seeds}",
    "NLL lower by": "{gain:.2f}",
    "standard error": "{error:.3f}",
    "in standard errors": "{ratio:.1f}",
    "order": "{order}",
}
INTRODUCTION = """\
# Results

Test NLL and ELBO are in nats per image on the stored draw of MNIST's test set; lower NLL is better. A figure is the
mean over training seeds, ± a standard error from images and seeds (of one seed, from images alone). This page is
written by `python -m tools.results` from the records in `experiments/results/`, each of which holds its command, code,
machine, versions and date.

{code}

`experiments/results/earlier/` keeps eight records of earlier code, one seed each and some without a section of today's
settings. They cannot be compared with today's runs and are not on this page.

## Runs

If a row says "10 of 3280" epochs, the run was cut short with `-S train.epochs=10`: compare it with other rows of that
budget, not with the published number. Runs that shared a machine with other work, or were paused for it, took longer
than they need.
"""
NOT_RUN_INTRODUCTION = """\
## Not run

These experiments have no record of this code, so it is unknown how close they come to the published numbers. At full
length most of them need a GPU; `python -m tools.orders` runs the short ones. (`make demo` runs `demo`, but keeps no
record.)
"""
DEPARTURES_INTRODUCTION = """\
## Departures from the papers' protocols

The numbers in the column "departures" are those of this list, which the files in `experiments/` state. "Authors" means
their released code or, for Xu et al. 2019, secondhand reports of it.
"""
ORDER_INTRODUCTION = """\
## Expected order at equal, short budgets

The two runs of each pair differ in one part only: they share networks, epochs, batch size, learning rate, seeds and
test pixels. The literature expects the first of them to be better. The difference of their NLLs is taken image by image
and averaged over seeds; its standard error joins that over images and that over seeds. An order is established where
at least three seeds agree in sign and the mean is beyond two standard errors, "reversed" where that holds the other way
round, and otherwise not established. At full length the order may differ.
"""


class Runs(NamedTuple):
    """An experiment's recorded runs, by training seed: records, and each test image's NLL, float64 (seeds, images)."""

    seeds: list[int]
    records: list[dict[str, Any]]
    nll: Tensor


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
    runs = read_runs(name)
    if runs is None:
        missing = dict.fromkeys(("nll", "elbo", "seeds", "samples", "time", "where"), "-")
        return cells | missing | {"epochs": f"{epochs}"}
    settings, metrics = runs.records[0]["settings"], [record["metrics"] for record in runs.records]
    relaxed = "relaxed_" if "relaxed_test_nll" in metrics[0] else ""
    note = " (not a likelihood)" if relaxed else ""
    nll = over_draws(runs.nll.mean(dim=1).tolist(), over_images(runs.nll.mean(dim=0)).error)
    # Seeds share their images, so that their errors over images are about equal and do not average out.
    image_error = sum(values[f"{relaxed}test_elbo_stderr"] for values in metrics) / len(metrics)
    elbo = over_draws([values[f"{relaxed}test_elbo"] for values in metrics], image_error)
    ran, minutes = settings["train"]["epochs"], [record["seconds"] / 60 for record in runs.records]
    where = dict.fromkeys(f"{_machine(record)}, {record['date']}" for record in runs.records)
    return cells | {
        "nll": f"{nll.value:.2f} ± {nll.error:.2f}{note}",
        "elbo": f"{elbo.value:.2f} ± {elbo.error:.2f}{note}",
        "seeds": f"{len(runs.seeds)}",
        "epochs": f"{ran}" if epochs in (ran, "as in params.yaml") else f"{ran} of {epochs}",
        "samples": f"{settings['evaluate']['importance_samples']}",
        "time": f"{sum(minutes) / len(minutes):.1f} min",
        "where": "; ".join(where),
    }


def _machine(record: dict[str, Any]) -> str:
    return record["machine"]["gpu"] or record["machine"]["processor"]


def departures(name: str) -> list[str]:
    """In what an experiment departs from its paper's protocol, as comments in its file state."""
    lines = (EXPERIMENTS / f"{name}.yaml").read_text().splitlines()
    return [line.removeprefix(DEPARTS) for line in lines if line.startswith(DEPARTS)]


def all_departures() -> list[str]:
    """The departures of all experiments, each once, in the order of the experiments' names."""
    return list(dict.fromkeys(text for name in names() for text in departures(name)))


def read_runs(name: str) -> Runs | None:
    """The recorded runs of an experiment, or None if there are none.

    Raises:
        InputError: a record lacks its NLLs or the identity of its code, or the runs differ in more than the seed.
    """
    paths = {_seed(path): path for path in run.record_path(name, "*").parent.glob(run.record_path(name, "*").name)}
    if not paths:
        return None
    seeds = sorted(paths)
    records = [json.loads(paths[seed].read_text()) for seed in seeds]
    for seed, record in zip(seeds, records, strict=True):
        if not record.get("code"):
            raise InputError(f"{paths[seed]}: no identity of its code; run it again with --record")
        others = record["settings"]["train"] | {"seed": None}
        first = records[0]["settings"]["train"] | {"seed": None}
        if record["settings"] | {"train": others} != records[0]["settings"] | {"train": first}:
            raise InputError(f"{paths[seed]}: other settings than seed {seeds[0]} has; run it again with equal ones")
        if record["test_images"] != records[0]["test_images"]:
            raise InputError(f"{paths[seed]}: other test images than seed {seeds[0]} has; run it again")
    nll = [torch.from_numpy(read_arrays(paths[seed].with_suffix(".npz"))["nll"]).double() for seed in seeds]
    return Runs(seeds, records, torch.stack(nll))


def _seed(path: Path) -> int:
    return int(path.stem.rpartition("-seed")[2])


def same_code(found: Iterable[Runs]) -> str:
    """The code that all runs come from, in words.

    Raises:
        InputError: they come from different code; the message names what differs.
    """
    codes = [record["code"] for runs in found for record in runs.records]
    paths = {path for code in codes for path in code if code != codes[0]}
    differing = sorted(path for path in paths if len({code.get(path) for code in codes}) > 1)
    if differing:
        raise InputError(
            f"{run.RESULTS}: records of different code, which cannot be compared ({', '.join(differing)}); "
            "run all of them again with --record"
        )
    return ", ".join(f"`{path}` {identity}" for path, identity in (codes[0] if codes else {}).items()) or "none yet"


def order_row(better: str, worse: str) -> dict[str, Any]:
    """The mean difference between the test NLLs of two experiments' runs, paired over images and seeds.

    Raises:
        InputError: their runs differ in test images, seeds or epochs.
    """
    first, second = read_runs(better), read_runs(worse)
    if first is None or second is None:
        return {"better": better, "worse": worse, "epochs": "not run"}
    for what, values in {
        "their test images": [runs.records[0]["test_images"] for runs in (first, second)],
        "train.seed": [runs.seeds for runs in (first, second)],
        "train.epochs": [runs.records[0]["settings"]["train"]["epochs"] for runs in (first, second)],
    }.items():
        if values[0] != values[1]:
            raise InputError(f"{better}, {worse}: their runs differ in {what}; run them again with equal ones")
    differences = second.nll - first.nll
    gains = differences.mean(dim=1).tolist()
    gain, error = over_draws(gains, over_images(differences.mean(dim=0)).error)
    return {
        "better": better,
        "worse": worse,
        "epochs": f"{first.records[0]['settings']['train']['epochs']}",
        "seeds": f"{len(gains)}",
        "gain": gain,
        "error": error,
        "ratio": gain / error,
        "order": order(gains, error),
    }


def order(gains: Sequence[float], error: float) -> str:
    """What the gains of several seeds, with the standard error of their mean, say of an expected order."""
    mean = sum(gains) / len(gains)
    if len(gains) < 3 or abs(mean) <= 2 * error or min(gains) <= 0 <= max(gains):
        return "not established"
    return "established" if mean > 0 else "reversed"


def main() -> None:
    """Write the page."""
    found = {name: read_runs(name) for name in names()}
    known = {run.record_path(name, seed) for name, runs in found.items() if runs for seed in runs.seeds}
    if strange := sorted(set(run.RESULTS.glob("*.json")) - known):
        raise InputError(f"{strange[0]}: not the record of an experiment's training seed; remove it or run it again")
    code = same_code(runs for runs in found.values() if runs)
    recorded = [row(name) for name, runs in found.items() if runs]
    said = textwrap.fill(f"All records of a page come from the same code: {code}.", 120, break_on_hyphens=False)
    tables = [(INTRODUCTION.format(code=said), table(COLUMNS, recorded) if recorded else "No run is recorded yet.")]
    tables += [(ORDER_INTRODUCTION, table(ORDER_COLUMNS, [order_row(*pair) for pair in ORDERS]))]
    tables += [(NOT_RUN_INTRODUCTION, table(NOT_RUN_COLUMNS, [row(name) for name, runs in found.items() if not runs]))]
    if all_departures():
        listed = "\n".join(f"{number}. {text}" for number, text in enumerate(all_departures(), start=1))
        tables += [(DEPARTURES_INTRODUCTION, listed)]
    page = "\n".join(f"{introduction}\n{lines}\n" for introduction, lines in tables)
    with replacing(PAGE) as file:
        file.write(page.encode())


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
