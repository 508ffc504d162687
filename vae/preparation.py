"""From raw images to what the model sees: splits and binarization."""

import math

import numpy as np
import torch
from torch import Tensor

from vae.errors import InputError
from vae.settings import Binarization, Prepare

Split = dict[str, Tensor]


def make_splits(raw: dict[str, tuple[np.ndarray, np.ndarray]], settings: Prepare) -> dict[str, Split]:
    """Split and binarize the raw sets `train` and `test`, each images (n, h, w) and labels (n,), both uint8.

    Returns:
        `train`, `test` and, unless validation_size is 0, `validation`: each with `images` uint8 (n, h, w), 255
        standing for 1, and `labels` int64 (n,). All but `train` also keep the grey-scale images as `originals`.
        Images of `train` stay grey-scale under dynamic binarization, where each mini-batch draws afresh.

    Raises:
        InputError: validation_size leaves no image to train on.
    """
    images, labels = (torch.from_numpy(array) for array in raw["train"])
    size = len(images) - settings.validation_size
    if size < 1:
        raise InputError(
            f"params.yaml: prepare.validation_size: got {settings.validation_size}, "
            f"allowed: at most {len(images) - 1}, as the data set has {len(images)} training images"
        )
    test_images, test_labels = (torch.from_numpy(array) for array in raw["test"])
    generator = torch.Generator().manual_seed(settings.seed)
    # The test set is drawn first, so that its pixels do not depend on the other splits' sizes.
    splits = {"test": _held_out(test_images, test_labels, settings.binarization, generator)}
    if settings.validation_size:
        splits["validation"] = _held_out(images[size:], labels[size:], settings.binarization, generator)
    train_images = images[:size]
    if settings.binarization != "dynamic":
        train_images = binarize(train_images, settings.binarization, generator)
    splits["train"] = {"images": train_images, "labels": labels[:size].long()}
    return splits


def binarize(images: Tensor, how: Binarization, generator: torch.Generator) -> Tensor:
    """Turn grey-scale images, uint8 of any shape, into 0 and 255; `none` leaves them as they are.

    `dynamic` and `static` draw each pixel as 1 with its intensity as the probability
    (Salakhutdinov & Murray 2008); `threshold` takes pixels above one half for 1.
    """
    if how == "none":
        return images.clone()  # tensors in one file must not share memory
    level = 0.5 if how == "threshold" else torch.rand(images.shape, generator=generator)
    return (images / 255 > level).to(torch.uint8) * 255


def pixels(images: Tensor, draw: bool) -> Tensor:
    """Turn uint8 images (255 stands for 1) into float32 ones; with `draw` into 0 and 1, drawn by intensity.

    A drawn pixel is 1 with its intensity as the probability, to within 2^-16.
    """
    if not draw:
        return images.float() / 255
    # Four pixels' noise from one random number: on a CPU those are drawn one by one, and would take longest.
    quarter = torch.empty(math.ceil(images.numel() / 4), dtype=torch.int64, device=images.device)
    noise = quarter.random_(-(2**63), None).view(torch.int16)[: images.numel()].view(images.shape)
    thresholds = images.float().mul_(2**16 / 255).sub_(2**15)
    return torch.lt(noise, thresholds, out=thresholds)


def _held_out(images: Tensor, labels: Tensor, how: Binarization, generator: torch.Generator) -> Split:
    return {"images": binarize(images, how, generator), "originals": images, "labels": labels.long()}
