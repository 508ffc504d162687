"""params.yaml as typed, validated settings."""

from vae.settings.reading import load_settings, parse_settings, parse_yaml, read_yaml
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
    check_pixels,
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
    "check_pixels",
    "load_settings",
    "parse_settings",
    "parse_yaml",
    "read_yaml",
]
