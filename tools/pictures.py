"""Refresh the pictures that README.md and docs/ show from a finished run: `python -m tools.pictures`."""

import argparse
import re
import sys
from pathlib import Path

from tools.record import require_finished
from vae.errors import InputError
from vae.files import replacing

SHOWN, DRAWN = Path("docs/pictures"), Path("plots/images")


def shown(folder: Path) -> list[str]:
    """The names of the pictures that the pages show, in alphabetical order."""
    pages = [folder / "README.md", *folder.glob("docs/*.md")]
    return sorted({name for page in pages for name in re.findall(r"\bpictures/(\w+\.png)\)", page.read_text())})


def refresh(folder: Path) -> list[Path]:
    """Copy what the pages show from a folder's run into its docs/pictures; returns the files that changed.

    Raises:
        InputError: the run is not finished or lacks a picture; then nothing is copied.
    """
    require_finished(folder)
    names = shown(folder)
    if missing := [name for name in names if not (folder / DRAWN / name).exists()]:
        raise InputError(f"{folder / DRAWN}: no {', '.join(missing)}, which README.md or docs/ shows")
    changed = []
    for name in names:
        contents, target = (folder / DRAWN / name).read_bytes(), folder / SHOWN / name
        if not target.exists() or target.read_bytes() != contents:
            with replacing(target) as file:
                file.write(contents)
            changed.append(target)
    return changed


def main() -> None:
    """Copy the pictures of the run in this folder, and name those that changed."""
    argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__.split(":")[0]).parse_args()
    try:
        changed = refresh(Path())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(map(str, changed)) or f"{SHOWN}: up to date")


if __name__ == "__main__":
    main()
