"""List and remove what interrupted training left: `python -m tools.checkpoints [--remove] [--older-than DAYS]`.

Kept are the folder that training with the present settings, data and code would resume from, and folders that hold
anything but checkpoints.
"""

import argparse
import time
from pathlib import Path

from stages import alone
from stages.train import SCRATCH, identify, read_data
from tools.errors import reported
from vae.device import set_up
from vae.errors import InputError, MissingFile
from vae.settings import load_settings
from vae.training import checkpoints

DAY = 24 * 60 * 60


def abandoned() -> dict[Path, str]:
    """The folders in data/.checkpoints whose states the present training cannot use, and why.

    Raises:
        InputError: the settings are wrong or the prepared data are missing, so that nothing can be said.
    """
    settings = load_settings("params.yaml")
    device = set_up(settings.train.device)
    try:
        data, _, metadata = read_data(settings)
    except MissingFile as error:
        advice = "run `dvc repro prepare` first, as the data decide which checkpoint can still be used"
        raise InputError(f"{error}; {advice}") from error
    return checkpoints.others(SCRATCH, identify(settings, data, metadata, device))


def describe(folder: Path) -> str:
    """The age of a folder's newest file, and the size of all."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{age(folder):.1f} days old, {size / 1e6:.1f} MB"


def age(folder: Path) -> float:
    """The age of a folder's newest file in days."""
    return (time.time() - max(path.stat().st_mtime for path in folder.iterdir())) / DAY


def main() -> None:
    """List the abandoned folders, and remove those that the command line asks to remove."""
    parser = argparse.ArgumentParser(prog="python -m tools.checkpoints", description=__doc__.split(":")[0])
    parser.add_argument("--remove", action="store_true", help="remove them instead of listing them")
    parser.add_argument("--older-than", type=float, default=0, metavar="DAYS", help="only those that are older")
    arguments = parser.parse_args()
    with reported(), alone():
        for folder, reason in abandoned().items():
            if age(folder) < arguments.older_than:
                continue
            said = f"{folder}: {describe(folder)}; {reason}"
            if not checkpoints.is_own(folder):
                said += "; kept, as it holds other files"
            elif arguments.remove:
                checkpoints.remove(folder)
                said += "; removed"
            print(said)


if __name__ == "__main__":
    main()
