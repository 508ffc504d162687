"""params.yaml as typed, validated settings."""

from vae.settings.reading import load_settings, parse_settings
from vae.settings.sections import (
    Binarization,
    DatasetName,
    Device,
    Embed,
    Evaluate,
    Model,
    Plot,
    Prepare,
    Settings,
    Train,
    mark_relaxed,
)

__all__ = [
    "Binarization",
    "DatasetName",
    "Device",
    "Embed",
    "Evaluate",
    "Model",
    "Plot",
    "Prepare",
    "Settings",
    "Train",
    "load_settings",
    "mark_relaxed",
    "parse_settings",
]
