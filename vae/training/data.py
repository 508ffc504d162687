"""The data that training uses."""

from dataclasses import dataclass

import torch

from vae.data.images import Split


@dataclass(frozen=True)
class Data:
    """The splits that training uses: uint8 images from 0 to 255, and their labels.

    `binarize` says whether the pixels of each mini-batch are drawn anew from the training images' intensities;
    `validation` may be None; `showcase` holds the few images whose reconstructions are kept after selected epochs.
    Only conditional models use labels.
    """

    train: Split
    validation: Split | None
    showcase: Split
    binarize: bool

    def to(self, device: torch.device, streamed: bool = False) -> "Data":
        """The same data on a device, where it stays during training; `streamed` training images stay where they are."""
        images, labels = self.train.images, self.train.labels.to(device)
        train = Split(images if streamed else images.to(device), labels)
        validation = None if self.validation is None else self.validation.to(device)
        return Data(train, validation, self.showcase.to(device), self.binarize)

    @property
    def splits(self) -> tuple[Split, Split | None, Split]:
        """The training, validation and showcase splits."""
        return self.train, self.validation, self.showcase
