"""What results depend on besides data and settings: the code, the versions of packages, the device."""

import ast
import hashlib
import io
import json
import platform
import tokenize
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import
    import torch


def code_identity(path: Path) -> str:
    """The SHA-256, as 16 hexadecimal digits, of what the Python code in a file or a folder does.

    The names of a folder's files count; comments, docstrings, blank lines and the Python version do not.
    """
    files = {"": path} if path.is_file() else {file.relative_to(path).as_posix(): file for file in path.rglob("*.py")}
    named = {name: statements(file.read_text("utf-8")) for name, file in files.items()}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]


def statements(source: str) -> str:
    """Python code without comments, docstrings and blank lines; other strings are left unchanged."""
    # By position, which all versions of Python agree on, unlike the output of ast.unparse.
    lines = source.split("\n")
    inside = set()  # lines that start inside a string, where blank lines count
    starts: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind, first, last = tokenize.tok_name[token.type], token.start[0], token.end[0]
        if kind == "COMMENT":
            lines[first - 1] = lines[first - 1][: token.start[1]].rstrip()
        elif kind == "STRING":
            inside |= set(range(first, last))
        elif kind.endswith("STRING_START"):  # f-strings: one token up to Python 3.11, several since
            starts.append(first)
        elif kind.endswith("STRING_END"):
            inside |= set(range(starts.pop(), last))
    for docstring in _docstrings(ast.parse(source)):
        first, last = docstring.lineno - 1, docstring.end_lineno - 1
        # Nodes count columns in bytes.
        before = lines[first].encode()[: docstring.col_offset].decode()
        after = lines[last].encode()[docstring.end_col_offset :].decode()
        lines[first : last + 1] = [(before + after).rstrip(), *[""] * (last - first)]
        inside -= set(range(first, last + 1))
    return "\n".join(line for number, line in enumerate(lines) if number in inside or line.strip())


def _docstrings(tree: ast.AST) -> Iterator[ast.stmt]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed version of each package."""
    return {name: version(name) for name in packages}


def machine(device: "torch.device") -> str:
    """The type of machine: the GPU's name or CPU, and the processor's architecture."""
    kind = "CPU"
    if device.type == "cuda":
        import torch

        kind = torch.cuda.get_device_name(device)
    return f"{kind} ({platform.system()}, {platform.machine()})"
