"""params.yaml as typed, validated settings."""

from vae.settings.reading import load_settings, parse_settings
from vae.settings.sections import (
    Binarization,
    Classify,
    DatasetName,
    Device,
    Embed,
    Evaluate,
    Model,
    Plot,
    Prepare,
    Sample,
    Settings,
    Train,
    mark_relaxed,
)

__all__ = [
    "Binarization",
    "Classify",
    "DatasetName",
    "Device",
    "Embed",
    "Evaluate",
    "Model",
    "Plot",
    "Prepare",
    "Sample",
    "Settings",
    "Train",
    "load_settings",
    "mark_relaxed",
    "parse_settings",
]
