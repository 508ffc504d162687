"""Search for good settings with Optuna: `python -m tools.search SPACE.yaml [--trials N] [--jobs N]`.

SPACE.yaml names values and ranges for keys of `model` and `train`, as searches/mnist.yaml does. Each trial is an
experiment in DVC's queue, judged by the validation ELBO, and ended early if it falls behind the others. The same
command continues a search that was interrupted; a higher N adds trials. Needs the package of the extra `search`.
"""

import argparse
import importlib.util
import re
from pathlib import Path

from tools.errors import reported
from vae.errors import InputError


def main() -> None:
    """Run the search that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tools.search", description=__doc__.split("\n\n")[1])
    parser.add_argument("space", type=Path, metavar="SPACE.yaml", help="what to search, and the search's name")
    parser.add_argument("--trials", type=int, choices=range(1, 10_001), default=20, metavar="N", help="in all (20)")
    parser.add_argument("--jobs", type=int, choices=range(1, 65), default=1, metavar="N", help="trials at a time (1)")
    arguments = parser.parse_args()
    with reported("interrupted; running trials continue until `dvc queue stop --kill`; run the same command to resume"):
        if importlib.util.find_spec("optuna") is None:
            raise InputError("optuna: not installed; run `pip install '.[search]'`")
        if not re.fullmatch(r"[\w-]+", name := arguments.space.stem, re.ASCII):
            raise InputError(f"{arguments.space}: names the experiments, allowed: letters, digits, - and _")
        from tools.space import read_space  # these need Optuna
        from tools.trials import search

        search(name, read_space(arguments.space), arguments.trials, arguments.jobs)


if __name__ == "__main__":
    main()
