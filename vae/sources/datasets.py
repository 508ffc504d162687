"""The data sets: their published files, and how to read those as arrays."""

import gzip
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from vae.artifacts import FEWEST
from vae.errors import DamagedFile, UnfitFile
from vae.files import read_arrays, readable, write_arrays
from vae.settings import DatasetName

DIGITS_FILE = "digits.npz"
CLASSES = 10  # of each data set

_TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_IMAGES, _LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"
_DIGITS_SHAPES = {"images": (np.uint8, (1797, 8, 8)), "labels": (np.uint8, (1797,))}
_DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"  # of images and labels
_DIGITS_SPLITS = {"train": slice(0, 1437), "test": slice(1437, 1797)}


def read(name: DatasetName, folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the raw files of a data set: its images and labels under the keys `train` and `test`.

    Returns:
        For each key, images of shape (n, channels, height, width), uint8 from 0 to 255, and labels (n,), uint8.

    Raises:
        FileError: a file is missing or damaged, has too few images, images of another size, or labels above 9.
    """
    if name == "digits":
        return _read_digits(Path(folder) / DIGITS_FILE)
    sets = {"train": _read_split(Path(folder), "train"), "test": _read_split(Path(folder), "t10k")}
    (height, width), (test_height, test_width) = (images.shape[2:] for images, _ in sets.values())
    if (height, width) != (test_height, test_width):
        path = Path(folder) / _IMAGES.format("t10k")
        raise UnfitFile(path, f"{test_height} x {test_width} pixels, but training images have {height} x {width}")
    return sets


def class_names(name: DatasetName) -> list[str]:
    """The names of a data set's ten classes, in label order."""
    if name in ("mnist", "digits"):
        return [str(digit) for digit in range(10)]
    return list(published(name).classes)


def published(name: DatasetName) -> Any:
    """What torchvision knows of a data set: `mirrors`, `resources` (names and MD5 sums), `classes`."""
    # Imported here as it takes a second or two, which the digits and `read` do not need.
    from torchvision import datasets

    return getattr(datasets, _TORCHVISION_CLASSES[name])


def write_digits(path: Path) -> None:
    """Write scikit-learn's 1797 digits as one npz file."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    write_arrays(path, {"images": digits.images.astype(np.uint8), "labels": digits.target.astype(np.uint8)})


def _read_digits(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    arrays = read_arrays(path)
    shapes = {key: (array.dtype, array.shape) for key, array in arrays.items()}
    content = b"".join(arrays[key].tobytes() for key in sorted(arrays))
    if shapes != _DIGITS_SHAPES or hashlib.sha256(content).hexdigest() != _DIGITS_SHA256:
        raise DamagedFile(path, "not scikit-learn's 1797 digits")
    images, labels = np.rint(arrays["images"] * (255 / 16)).astype(np.uint8)[:, None], arrays["labels"]
    return {key: (images[part], labels[part]) for key, part in _DIGITS_SPLITS.items()}


def _read_split(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    path = folder / _IMAGES.format(prefix)
    images = _read_idx(path, dimensions=3)
    if len(images) < FEWEST or not images.size:
        raise UnfitFile(path, f"images of shape {images.shape}, expected at least {FEWEST} with pixels")
    path = folder / _LABELS.format(prefix)
    labels = _read_idx(path, dimensions=1)
    if len(labels) != len(images):
        raise DamagedFile(path, f"{len(labels)} labels for {len(images)} images")
    if labels.max() >= CLASSES:
        raise UnfitFile(path, f"labels up to {labels.max()}, expected from 0 to {CLASSES - 1}")
    return images[:, None], labels


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    with readable(path) as file:
        content = gzip.decompress(file.read())
    # IDX: two zero bytes, the type (8: unsigned byte), the number of dimensions, their sizes, the values.
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        raise DamagedFile(path, f"not an IDX file of unsigned bytes in {dimensions} dimensions")
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4).tolist()
    if math.prod(shape) != len(content) - start:
        raise DamagedFile(path, f"{len(content) - start} values, but the header says {shape}")
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)
