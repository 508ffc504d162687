"""What the tests of the settings share: params.yaml as it is, changed in one place, and what is said of it."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from vae.errors import InputError
from vae.settings import Settings, parse_settings

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
VALUES = yaml.safe_load(PARAMS.read_text())
KEYS = [(section, key) for section, keys in VALUES.items() for key in keys]
SCHEMA = Settings.model_json_schema()
TYPES = {(section, key): SCHEMA["$defs"][section.capitalize()]["properties"][key]["type"] for section, key in KEYS}
FLOATS, INTEGERS, LISTS = (
    [place for place in KEYS if TYPES[place] == wanted] for wanted in ("number", "integer", "array")
)

# No database of failures, as every run should be like the first; no deadline, as the machine may be busy.
many = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def changed(section, key, value):
    values = copy.deepcopy(VALUES)
    values[section][key] = value
    return values


def complaints(values):
    """The lines of the message that `values` are refused with; no line where they are valid."""
    try:
        assert isinstance(parse_settings(values, "some.yaml"), Settings)
    except InputError as error:
        lines = str(error).splitlines()
        assert lines
        if re.fullmatch(r"some\.yaml: and \d+ more", lines[-1]):
            assert len(lines) == 21
            lines.pop()
        for line in lines:
            assert re.fullmatch(r"some\.yaml: .*allowed: .+", line), line
            assert len(line) < 600
        return lines
    return []


def refusal(values):
    with pytest.raises(InputError) as caught:
        parse_settings(values, "some.yaml")
    return str(caught.value)
