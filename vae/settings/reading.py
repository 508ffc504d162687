"""Reading and validating params.yaml, with messages for every mistake in it."""

import difflib
import re
import reprlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vae.errors import InputError, MissingFile, redact
from vae.settings.sections import Settings

_LARGEST = 100_000  # bytes, twenty times the size of the project's own file
_MOST_LINES = 20  # in a message


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


def load_settings(path: str | Path) -> Settings:
    """Read and validate a settings file.

    Raises:
        InputError: the file is missing, too large or not YAML, or a key is unknown, missing, repeated, of the wrong
            type or out of range; the message names each such key, its value and what is allowed.
    """
    return parse_settings(read_yaml(path), str(path))


def read_yaml(path: str | Path) -> Any:
    """Read a file of settings as DVC does: as YAML 1.2.

    Raises:
        InputError: the file is missing, too large or not YAML, or a key is repeated.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise InputError(f"{path}: cannot be read (not a regular file)")
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise MissingFile(path) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > _LARGEST:
        raise InputError(f"{path}: too large, allowed: at most {_LARGEST} bytes")
    return parse_yaml(content, str(path))


def parse_yaml(content: str | bytes, source: str) -> Any:
    """Read YAML as DVC does; `source` names its origin in the message of an InputError."""
    try:
        loader = _Loader(content)
        tree = loader.get_single_node()
        repeated = list(_repeated_keys(tree))
        values = None if tree is None else loader.construct_document(tree)
    except Exception as error:
        # Not only YAMLError: PyYAML lets errors of its conversions escape, such as a KeyError for `!!bool x`.
        kind = "" if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: "
        raise InputError(f"{source}: not valid YAML: {kind}{_readable(error):.500}") from error
    if repeated:
        raise InputError(_lines(source, repeated, len(repeated)))
    return values


def _readable(error: Exception) -> str:
    """The message of an error that quotes a file, in one line without secrets and control characters."""
    line = redact(" ".join(str(error).split()))
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def _lines(source: str, complaints: Sequence[str], number: int) -> str:
    shown = [f"{source}: {line}" for line in complaints[:_MOST_LINES]]
    more = number - len(shown)
    return "\n".join([*shown, f"{source}: and {more} more"] if more else shown)


def _repeated_keys(tree: yaml.Node | None, section: tuple[str, ...] = ()) -> Iterator[str]:
    # If a key is repeated, PyYAML silently keeps the last value.
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
            shown = " and ".join(map(str, places[:_MOST_LINES]))
            yield f"{_dotted([*section, name])}: repeated on lines {shown}, allowed: once"


def parse_settings(values: Any, source: str) -> Settings:
    """Validate settings that were read before; `source` names their origin in messages."""
    if not isinstance(values, dict):
        sections = ", ".join(Settings.model_fields)
        raise InputError(f"{source}: got {_show(values)}, allowed: the sections {sections}")
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        complaints = [_complaint(detail) for detail in details[:_MOST_LINES]]
        raise InputError(_lines(source, complaints, len(details))) from error


def _complaint(detail: Any) -> str:
    location, kind = list(detail["loc"]), detail["type"]
    if kind == "value_error":
        # For values that do not go together the validator names the key within its section; for one value, no key.
        reason = str(detail["ctx"]["error"])
        return f"{_dotted(location)}: {reason}" if reason.startswith("got ") else _dotted([*location, ""]) + reason
    if kind == "string_unicode" and "properties" in _schema_at(location):
        # A key that is not valid Unicode ("\\ud800"): pydantic reports the section as its location.
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


class _Short(reprlib.Repr):
    def repr_str(self, text: str, level: int) -> str:
        return super().repr_str(redact(text[:10_000]), level)


_SHORT = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60


def _show(value: Any) -> str:
    """A value for a message: one short line, whatever the file holds."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number with thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(location: Sequence[Any]) -> str:
    parts = [redact(str(part)) for part in location]
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
        most = f" of at most {schema['maxItems']} items" if "maxItems" in schema else ""
        return f"a list{most}, each item {_describe(_resolve(schema['items']))}"
    if schema["type"] == "string":
        return schema["description"]
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
