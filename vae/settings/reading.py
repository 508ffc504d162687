"""Reading and validating params.yaml, and the messages about what is wrong with it."""

import difflib
import re
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vae.errors import InputError
from vae.settings.sections import Settings


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads it, which is YAML 1.2: no octal 010, no sexagesimal 1:30, no yes or no for booleans."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[1] not in ("bool", "int", "float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _firsts in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_firsts))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def load_settings(path: str | Path = "params.yaml") -> Settings:
    """Read and validate a settings file.

    Raises:
        InputError: the file is missing or no YAML, or a key is unknown, missing, repeated, of the wrong
            type or out of range; the message names each such key, its value and what is allowed.
    """
    try:
        with Path(path).open("rb") as file:
            loader = _Loader(file)
            tree = loader.get_single_node()
        repeated = list(_repeated_keys(tree))
        values = None if tree is None else loader.construct_document(tree)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run from the project's root") from error
    except Exception as error:
        # Not only YAMLError: PyYAML lets out what its conversions raise, a KeyError at `!!bool x` for example.
        kind = "" if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: "
        raise InputError(f"{path}: no valid YAML: {kind}{' '.join(str(error).split()):.500}") from error
    if repeated:
        raise InputError("\n".join(f"{path}: {line}" for line in repeated))
    return parse_settings(values, str(path))


def _repeated_keys(tree: yaml.Node | None, section: tuple[str, ...] = ()) -> Iterator[str]:
    # Of a key that stands twice, PyYAML takes the last one and says nothing.
    if not isinstance(tree, yaml.MappingNode):
        return
    lines: dict[str, list[int]] = {}
    for key, value in tree.value:
        if isinstance(key, yaml.ScalarNode):
            lines.setdefault(key.value, []).append(key.start_mark.line + 1)
            if not section:
                yield from _repeated_keys(value, (key.value,))
    for name, places in lines.items():
        if len(places) > 1:
            yield f"{_dotted([*section, name])}: stands in lines {' and '.join(map(str, places))}, allowed: once"


def parse_settings(values: Any, source: str) -> Settings:
    """Validate settings that were already read; `source` names their origin in messages."""
    if not isinstance(values, dict):
        sections = ", ".join(Settings.model_fields)
        raise InputError(f"{source}: got {_show(values)}, allowed: the sections {sections}")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_complaint(detail) for detail in error.errors(include_url=False)]
        raise InputError("\n".join(f"{source}: {line}" for line in lines)) from error


def _complaint(detail: Any) -> str:
    location, kind = list(detail["loc"]), detail["type"]
    if kind == "value_error":
        # Of values that do not go together; the validator names the key within its section.
        return _dotted([*location, ""]) + str(detail["ctx"]["error"])
    if kind == "string_unicode" and "properties" in _schema_at(location):
        # A key that is no Unicode text ("\\ud800"): pydantic gives its section as the place.
        location, kind = [*location, detail["input"]], "invalid_key"
    key = _dotted(location)
    if kind in ("extra_forbidden", "invalid_key"):
        known = list(_schema_at(location[:-1])["properties"])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{key}: unknown key, got {_show(detail['input'])}; {hint}allowed: {', '.join(known)}"
    allowed = _describe(_schema_at(location))
    if kind == "missing":
        return f"{key}: missing, allowed: {allowed}"
    if kind == "finite_number":
        allowed = allowed.replace("a number", "a finite number")
    return f"{key}: got {_show(detail['input'])}, allowed: {allowed}"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60


def _show(value: Any) -> str:
    """A value as it stands in a message: one short line, whatever the file holds."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(location: Sequence[Any]) -> str:
    parts = [str(part) for part in location]
    return ".".join(part if part.isprintable() and len(part) <= 60 else _show(part) for part in parts)


_SCHEMA = Settings.model_json_schema()


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return _SCHEMA["$defs"][reference.rsplit("/", 1)[1]] if reference else schema


def _schema_at(location: Any) -> dict[str, Any]:
    schema = _SCHEMA
    for part in location:
        schema = _resolve(schema["properties"][part] if "properties" in schema else schema["items"])
    return schema


def _describe(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if "properties" in schema:
        return "a section with the keys " + ", ".join(schema["properties"])
    if schema["type"] == "array":
        return f"a list, each item {_describe(_resolve(schema['items']))}"
    if schema["type"] == "string":
        return "a URL (http, https, file) or a path that starts with / or ."
    if schema["type"] == "boolean":
        return "true or false"
    words = "a whole number" if schema["type"] == "integer" else "a number"
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "greater than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    bounds = [f"{text} {schema[key]:.10g}" for key, text in limits.items() if key in schema]
    return " ".join([words, " and ".join(bounds)]).strip()
