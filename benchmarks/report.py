"""What a benchmark says of itself: its tables in Markdown, the machine, the versions."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of rows, where `columns` maps a heading to a format of a row's values, `{seconds:.2f}` say.

    A cell stays empty where the row has no such value, or None. Columns with a number's format stand to the right.
    """
    lines = [list(columns), *([_cell(form, row) for form in columns.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [">" if ":" in form else "<" for form in columns.values()]
    rule = [f"{'':-<{width - 1}}{':' if side == '>' else '-'}" for width, side in zip(widths, sides, strict=True)]
    lines.insert(1, rule)
    return "\n".join(
        f"| {' | '.join(f'{c:{s}{w}}' for c, s, w in zip(line, sides, widths, strict=True))} |" for line in lines
    )


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


def _cell(form: str, row: Mapping[str, Any]) -> str:
    try:
        return form.format_map(row)
    except (KeyError, TypeError):  # None takes no number's format
        return ""
