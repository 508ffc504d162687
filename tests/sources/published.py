"""Files in the form in which MNIST is published, with made-up images."""

import gzip
import struct

import numpy as np

NAMES = [
    "train-labels-idx1-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
    "train-images-idx3-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
]


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def made_up_files(seed=0):
    rng = np.random.default_rng(seed)
    arrays = [
        rng.integers(10, size=12, dtype=np.uint8),
        rng.integers(10, size=10, dtype=np.uint8),
        rng.integers(256, size=(12, 3, 2), dtype=np.uint8),
        rng.integers(256, size=(10, 3, 2), dtype=np.uint8),
    ]
    files = {name: gzip.compress(idx(array), mtime=0) for name, array in zip(NAMES, arrays, strict=True)}
    return arrays, files


ARRAYS, FILES = made_up_files()


def write_files(folder, files=FILES):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
