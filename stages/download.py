"""Download: the data set's files as published -> data/raw."""

from pathlib import Path

from stages import run
from vae.datasets import fetch
from vae.settings import Settings

RAW = Path("data/raw")


def download(settings: Settings) -> None:
    """Fetch the data set, and remove the files that another one left behind."""
    files = fetch(settings.download.dataset, settings.download.mirrors, RAW)
    for path in RAW.iterdir():
        if path.name not in files and not path.is_dir():
            path.unlink()


if __name__ == "__main__":
    run(download)
