"""Start a command as several processes on this machine, by torch's own launcher."""

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vae.errors import Interrupted, LostRank

if TYPE_CHECKING:
    from vae.settings import Train


def rank() -> int | None:
    """The number of this process among those that a launcher started, or None if none did."""
    return int(os.environ["RANK"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else None


def asked(settings: "Train") -> int | str:
    """How many processes share the run: as many as a launcher started, or else what the settings say."""
    return settings.processes if rank() is None else int(os.environ["WORLD_SIZE"])


def wanted(settings: "Train") -> int:
    """How many processes to start; 1 if this is one of several already."""
    if rank() is not None or settings.processes == 1:
        return 1
    if settings.processes != "auto":
        return int(settings.processes)
    import torch

    return max(torch.cuda.device_count(), 1) if settings.device != "cpu" else 1


def launch(module: str, count: int) -> None:
    """Run `python -m module` as `count` processes, and wait for them.

    Raises:
        LostRank: a process was killed, which cannot say so itself.
        SystemExit: a process failed, with its exit status; it has printed why.
        Interrupted: on SIGINT or SIGTERM, once the processes have ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from vae import ranks
    from vae.device import threads_each

    # What it allows is for the whole run.
    os.environ["OMP_NUM_THREADS"] = str(max(threads_each(1) // count, 1))
    for name in filter(lambda name: name.startswith("torch.distributed.elastic"), logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # its own account of every failure
    with tempfile.TemporaryDirectory() as folder:
        reported = Path(folder) / "reported"
        os.environ[ranks.REPORT] = str(reported)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=module,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module)
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            if reported.exists():
                sys.exit(max(failure.exitcode, 1))
            how = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else f"ended ({failure.exitcode})"
            raise LostRank(f"rank {number} of {count} {how}, and the others after it") from error
        except SignalException as error:
            raise Interrupted(error.sigval, "" if reported.exists() else f"stopped by {error.sigval.name}") from error


def explained(error: LostRank) -> str:
    """The message of an error, with what the ranks know of those that are lost."""
    if rank() is None:
        return str(error)
    from vae import ranks

    return ranks.explained(error)
