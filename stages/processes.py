"""Start a stage as several processes, by torch's own launcher."""

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vae.errors import Interrupted, WorkError

if TYPE_CHECKING:
    from vae.settings import Train


def rank() -> int | None:
    """The number of this process among those that a launcher started, or None if none did."""
    return int(os.environ["RANK"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else None


def wanted(settings: "Train") -> int:
    """How many processes to start; 1 if this is one of several already."""
    if rank() is not None or settings.processes == 1:
        return 1
    if settings.processes != "auto":
        return int(settings.processes)
    import torch

    return max(torch.cuda.device_count(), 1) if settings.device != "cpu" else 1


def launch(count: int) -> None:
    """Run this stage again as `count` processes on this machine, and wait for them.

    Raises:
        WorkError: a process was killed, which cannot say so itself.
        SystemExit: a process failed, with its exit status; it has printed why.
        Interrupted: on SIGINT or SIGTERM, once the processes have ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its own account of every failure
    stage = Path(sys.argv[0]).stem
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=stage,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", f"stages.{stage}")
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            if failure.exitcode > 0:
                sys.exit(failure.exitcode)
            raise WorkError(
                f"rank {number} of {count} was ended by {failure.signal_name()}, and the others after it; "
                "the last checkpoint is kept, and the next run resumes from it"
            ) from error
        except SignalException as error:
            raise Interrupted(error.sigval, "") from error
