"""List and remove what interrupted training left: `python -m tools.checkpoints [--remove] [--older-than DAYS]`.

Kept are the folder that training with the present settings, data and code would resume from, and folders that hold
anything but checkpoints.
"""

import argparse
import sys
import time
from pathlib import Path

from stages import alone
from stages.train import SCRATCH, identify, read_data
from vae.device import set_up
from vae.errors import InputError, MissingFile, WorkError
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
    data, _, metadata = read_data(settings)
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
    try:
        with alone():
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
    except MissingFile as error:
        _fail(2, f"{error}; run `dvc repro prepare` first, as the data decide which checkpoint can still be used")
    except InputError as error:
        _fail(2, str(error))
    except WorkError as error:
        _fail(1, str(error))
    except OSError as error:
        _fail(1, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        _fail(130, "interrupted")


def _fail(status: int, message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
