"""The machine, the versions and the file name of a benchmark."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """The processor, the cores that this process may use, torch's threads, and the GPU's name or None."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"processor": _processor(), "cores": cores, "threads": torch.get_num_threads(), "gpu": gpu}


def versions(device: torch.device) -> dict[str, Any]:
    """The versions that speed depends on."""
    known = {"python": platform.python_version(), "torch": torch.__version__, "pyro": version("pyro-ppl")}
    return known | ({"cuda": torch.version.cuda} if device.type == "cuda" else {})


def file_name(device: torch.device, date: str) -> str:
    """The name of the results' file: the GPU's name or cpu, and the date."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{date}.json"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
