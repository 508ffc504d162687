"""Download: the data set's files as published -> data/raw."""

import os
from pathlib import Path

from stages import run
from vae.errors import WorkError
from vae.settings import Settings
from vae.sources.mirrors import fetch

RAW = Path("data/raw")
ADVICE = (
    "set MNIST_MIRROR to a URL or a folder that holds the data set's four files (*-ubyte.gz), "
    "or run `make demo`, which needs no download"
)


def download(settings: Settings) -> None:
    """Fetch the data set, and remove the files that another one left behind."""
    try:
        files = fetch(settings.download.dataset, _mirrors(settings), RAW)
    except WorkError as error:
        raise WorkError(f"{error}\n{ADVICE}") from error
    for path in RAW.iterdir():
        if path.name not in files and not path.is_dir():
            path.unlink()


def _mirrors(settings: Settings) -> list[str]:
    """The mirror in the environment, which may hold a password, before those of the settings."""
    own = os.environ.get("MNIST_MIRROR")
    return [*([own] if own else []), *settings.download.mirrors]


if __name__ == "__main__":
    run(download)
