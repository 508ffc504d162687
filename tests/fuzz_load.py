"""Load mutated model files by the thousand: `python -m tests.fuzz_load --count 10000 --seed 1`.

Each is a model or one InputError that names the file; nothing in a file is executed, and the address space of the
process may grow by no more than LIMIT from when it starts.
"""

import argparse
import copy
import json
import os
import pickle
import random
import re
import resource
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

import vae
from vae.errors import InputError
from vae.model import make_model, save
from vae.settings import Model

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 400 * 1024**2  # bytes, a hundred times the files' sizes and far below what their metadata can describe
SMALL = {"latent_dim": 3, "encoder_widths": [6], "decoder_widths": [5], "flow_widths": [4], "prior_components": 4}
KINDS = [
    {"prior": "realnvp"},
    {"prior": "spline", "posterior": "iaf", "network": "conv"},
    {"prior": "vampprior", "network": "gated_mlp"},
    {"prior": "gaussian_mixture", "levels": "hvae", "top_dim": 2, "inner_widths": [4], "condition": "label"},
]
EXTREMES = [
    0, 1, -1, 2, 3, 100, 10_000, 10**6, 10**9, 2**31, 2**63, 10**30, 10**400, 0.5, 1e308, True, None, "", "x", "1",
    [], [[]], [0], [1, 2], [1, 10**6, 10**6], [10_000] * 100, {}, {"a": 1}, "iaf", "vampprior", "resnet", "label",
]  # fmt: skip


class Trap:
    """A pickle that makes a file if anyone loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return open, (str(self.path), "w")


def read(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and the bytes after it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(header: dict[str, Any], values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def in_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat or insert bytes anywhere, more often in the header."""
    place = rng.randrange(rng.choice([16, 2_000, len(content)]))
    end = place + rng.choice([1, 4, 100])
    some = rng.randbytes(end - place)
    changes = [content[:place] + some + content[end:], content[:place], content[:place] + some + content[place:]]
    return rng.choice([*changes, content[:end] + content[place:]])


def in_metadata(content: bytes, rng: random.Random) -> bytes:
    """Replace, remove or add values of the metadata."""
    header, values = read(content)
    metadata = json.loads(header["__metadata__"]["json"])
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.choice([metadata, metadata["model"]] if isinstance(metadata.get("model"), dict) else [metadata])
        key = rng.choice([*place, "more"])
        if rng.random() < 0.1:
            place.pop(key, None)
        elif isinstance(place.get(key), list) and place[key] and rng.random() < 0.5:
            place[key] = [*place[key]]
            place[key][rng.randrange(len(place[key]))] = copy.deepcopy(rng.choice(EXTREMES))
        else:
            place[key] = copy.deepcopy(rng.choice(EXTREMES))
    header["__metadata__"]["json"] = json.dumps(metadata)
    return write(header, values)


def in_tensors(content: bytes, rng: random.Random) -> bytes:
    """Change the names, types, shapes, places or values of tensors."""
    header, values = read(content)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    change = rng.choice(["dtype", "shape", "offsets", "name", "drop", "values"])
    if change == "dtype":
        entry["dtype"] = rng.choice(["F64", "I32", "F16", "BF16", "BOOL", "U8", "I64", "F4", "X"])
    elif change == "shape":
        entry["shape"] = rng.choice([entry["shape"][::-1], [*entry["shape"], 1], [], [10**6, 10**6], [0], [-1]])
    elif change == "offsets":
        entry["data_offsets"] = rng.choice([[0, 4], [0, 10**12], [10**12, 2], [0, len(values)], [-4, 0]])
    elif change == "name":
        header[rng.choice(["more", "", "a" * 10_000])] = header.pop(name)
    elif change == "drop":
        del header[name]
    else:
        place = rng.randrange(len(values) // 4) * 4
        values = (
            values[:place] + struct.pack("<f", rng.choice([float("nan"), float("inf"), 1e38])) + values[place + 4 :]
        )
    return write(header, values)


def run(count: int, seed: int) -> Counter:
    """Load `count` mutated files; returns how many there were of each outcome."""
    rng, outcomes = random.Random(seed), Counter()
    params = yaml.safe_load((ROOT / "params.yaml").read_text())["model"]
    with tempfile.TemporaryDirectory() as folder:
        path, trap = Path(folder) / "model.safetensors", Path(folder) / "executed"
        originals = []
        for kind in KINDS:
            settings = Model(**{**params, **SMALL, **kind})
            save(make_model(settings, (1, 6, 5), 3), path, settings, {"classes": ["a", "b", "c"]})
            vae.load(path)
            originals.append(path.read_bytes())
        mutations = [in_bytes, in_metadata, in_metadata, in_tensors]
        limit_memory()
        for number in range(count):
            mutation = rng.choice(mutations)
            content = mutation(rng.choice(originals), rng)
            if number % 100 == 0:
                content = pickle.dumps(Trap(trap), protocol=rng.randrange(6))
            path.write_bytes(content)
            try:
                vae.load(path)
                outcomes["a model"] += 1
            except InputError as error:
                assert str(error).startswith(f"{path}: "), error
                outcomes["damaged" if "damaged" in str(error) else "not a model"] += 1
            except BaseException as error:
                outcomes[f"{type(error).__name__}: {str(error)[:100]} (number {number}, {mutation.__name__})"] += 1
        assert not trap.exists(), "a pickle was executed"
    return outcomes


def limit_memory() -> None:
    size = 1024 * int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT,) * 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = run(arguments.count, arguments.seed)
    print(f"{arguments.count} mutated files, seed {arguments.seed}")
    for outcome, times in outcomes.most_common():
        print(f"{times:8} {outcome}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"at most {grown:.0f} MB resident")
    sys.exit(bool(outcomes.keys() - {"a model", "damaged", "not a model"}))


if __name__ == "__main__":
    main()
