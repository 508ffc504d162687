"""Refresh what README.md and docs/ show of a finished run: `python -m tools.pictures`.

Copies the pictures that the pages show to docs/pictures, writes all metrics to docs/metrics.md, and puts the first ones
into README.md's table.
"""

import argparse
import re
import sys
from pathlib import Path

from tools.record import Metrics, read_metrics, require_finished
from tools.show import layout
from vae.errors import InputError
from vae.files import replacing

SHOWN, DRAWN = Path("docs/pictures"), Path("plots/images")
README, METRICS = Path("README.md"), Path("docs/metrics.md")
FIRST = 5  # metrics in README.md
METRICS_TEXT = """\
# Metrics of the recorded run

All metrics of the run that is committed in `metrics/`, with the committed `params.yaml`. `make pictures` writes this
page from a finished run. Standard errors are over images and draws for the same weights; "real images" is the value of
real training images, the target for samples.

The error of `train_elbo` comes from the spread of its epoch's mini-batches, so that the change of the weights within
the epoch is part of it. It is left out where the loss is not minus the ELBO.

{table}
"""


def shown(folder: Path) -> list[str]:
    """The names of the pictures that the pages show, in alphabetical order."""
    pages = [folder / "README.md", *folder.glob("docs/*.md")]
    return sorted({name for page in pages for name in re.findall(r"\bpictures/(\w+\.png)\)", page.read_text())})


def metrics_page(metrics: Metrics) -> str:
    """The page with all metrics of a run."""
    return METRICS_TEXT.format(table=layout(metrics, None))


def with_first_metrics(readme: str, metrics: Metrics) -> str:
    """The text of README.md with the first rows of `make repro`'s table for a run that equals the record."""
    lines = layout(metrics, metrics).splitlines()[: 2 + FIRST]
    return re.sub(r"^\| metric .*?(?=^…$)", "\n".join([*lines, ""]), readme, count=1, flags=re.MULTILINE | re.DOTALL)


def refresh(folder: Path) -> list[Path]:
    """Bring what the pages show up to date with a folder's run; returns the files that changed.

    Raises:
        InputError: the run is not finished or lacks a picture; then nothing is written.
    """
    require_finished(folder)
    names = shown(folder)
    if missing := [name for name in names if not (folder / DRAWN / name).exists()]:
        raise InputError(f"{folder / DRAWN}: no {', '.join(missing)}, which README.md or docs/ shows")
    metrics = read_metrics(folder)
    fresh = {SHOWN / name: (folder / DRAWN / name).read_bytes() for name in names} | {
        METRICS: metrics_page(metrics).encode(),
        README: with_first_metrics((folder / README).read_text("utf-8"), metrics).encode(),
    }
    changed = [path for path in fresh if not (folder / path).exists() or (folder / path).read_bytes() != fresh[path]]
    for path in changed:
        with replacing(folder / path) as file:
            file.write(fresh[path])
    return changed


def main() -> None:
    """Refresh the pages of this folder, and name the files that changed."""
    argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__.split("\n\n")[1]).parse_args()
    try:
        changed = refresh(Path())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(map(str, changed)) or "README.md and docs: up to date")


if __name__ == "__main__":
    main()
