"""Split and binarize the raw images: data/raw -> data/prepared."""

from pathlib import Path

from stages import run
from vae.datasets import class_names, read
from vae.preparation import make_splits
from vae.settings import Settings
from vae.storage import write_tensors

RAW, PREPARED = Path("data/raw"), Path("data/prepared")


def prepare(settings: Settings) -> None:
    """Write one file a split; a validation split of an earlier run does not survive."""
    dataset = settings.download.dataset
    metadata = {
        "dataset": dataset,
        "binarization": settings.prepare.binarization,
        "classes": class_names(dataset),
    }
    splits = make_splits(read(dataset, RAW), settings.prepare)
    (PREPARED / "validation.safetensors").unlink(missing_ok=True)
    for name, split in splits.items():
        write_tensors(PREPARED / f"{name}.safetensors", split, metadata)
        print(f"{name}: {len(split['images'])} images")


if __name__ == "__main__":
    run(prepare)
