"""Split and binarize the raw images: data/raw -> data/prepared."""

from pathlib import Path

from stages import run
from vae.data.splits import make_splits, write_split
from vae.settings import Settings
from vae.sources.datasets import class_names, read

RAW, PREPARED = Path("data/raw"), Path("data/prepared")


def prepare(settings: Settings) -> None:
    """Write one file per split; the splits of an earlier run are removed."""
    dataset = settings.download.dataset
    metadata = {
        "dataset": dataset,
        "binarization": settings.prepare.binarization,
        "classes": class_names(dataset),
    }
    splits = make_splits(read(dataset, RAW), settings.prepare)
    # Every stage that learns reads the training split: removed first and written last, it only exists together with
    # the others that were made with it, even after a full disk or a kill.
    for name in ("train", "validation"):
        (PREPARED / f"{name}.safetensors").unlink(missing_ok=True)
    for name, split in splits.items():  # `train` comes last
        write_split(PREPARED / f"{name}.safetensors", split, metadata)
        print(f"{name}: {len(split)} images")


if __name__ == "__main__":
    run(prepare)
