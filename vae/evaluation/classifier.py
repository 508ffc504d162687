"""A small convolutional classifier, whose features serve to compare samples with real images."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from vae import files, modules
from vae.artifacts import SAME, check_same_data
from vae.data.images import Split, pixels
from vae.errors import WorkError
from vae.seeds import derive
from vae.settings import Classify

FEATURES = 64
_CHUNK = 1_000  # images per batch


class Classifier(nn.Module):
    """Images, float (n, channels, height, width) with values from 0 to 1, to class logits, (n, classes)."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        channels, *sides = image_shape
        convolutions = nn.Sequential(
            *_convolution(channels, 16, size=5, stride=2),
            *_convolution(16, 32),
            nn.MaxPool2d(2, ceil_mode=True),
            *_convolution(32, 48),
            *_convolution(48, 48),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
        )
        height, width = (-(-side // 8) for side in sides)
        self.body = nn.Sequential(convolutions, nn.Linear(48 * height * width, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)
        # A third faster on a CPU.
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """The inputs of the last layer for each image, shape (n, FEATURES)."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


class Judgment(NamedTuple):
    """A classifier's output for n images: features (n, FEATURES) and class probabilities (n, classes)."""

    features: Tensor
    probabilities: Tensor


def train(split: Split, classes: int, binarize: bool, settings: Classify) -> Classifier:
    """Train a classifier on a split's images and labels, on their device.

    With `binarize` the pixels of each mini-batch are drawn anew from the images' intensities. Adam's learning rate
    follows one cycle (Smith & Topin 2017).

    Raises:
        WorkError: a loss or the final weights are not finite, with epoch and step in the message.
    """
    images, labels = split.images, split.labels
    torch.manual_seed(derive(settings.seed, "classify"))
    classifier = Classifier(tuple(images.shape[1:]), classes).to(images.device)
    # Not batches of a single image where there are more: one of a single pixel has no variance to normalize by.
    steps = max(min(-(-len(images) // settings.batch_size), len(images) // 2), 1)
    losses = torch.zeros(steps, device=images.device)
    adam = torch.optim.Adam(classifier.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, settings.learning_rate, total_steps=settings.epochs * steps)
    with tqdm(total=settings.epochs * len(images), unit="image", desc="classifier", disable=None) as bar:
        for epoch in range(1, settings.epochs + 1):
            order = torch.randperm(len(images), device=images.device)
            for step, chosen in enumerate(order.tensor_split(steps)):
                loss = F.cross_entropy(classifier(pixels(images[chosen], binarize=binarize)), labels[chosen])
                adam.zero_grad()
                loss.backward()
                adam.step()
                schedule.step()
                losses[step] = loss.detach()
                bar.update(len(chosen))
            _check_finite(classifier, losses, epoch, settings)
    return classifier.eval().requires_grad_(False)


def _check_finite(classifier: Classifier, losses: Tensor, epoch: int, settings: Classify) -> None:
    finite = losses.isfinite()
    if not finite.all():
        what, step = "loss is", int(finite.int().argmin()) + 1
    elif not all(tensor.isfinite().all() for tensor in classifier.state_dict().values()):
        what, step = "weights are", len(losses)
    else:
        return
    raise WorkError(
        f"the classifier's {what} not finite at epoch {epoch}, step {step} of {len(losses)}: "
        f"lower classify.learning_rate (now {settings.learning_rate:g})"
    )


@torch.no_grad()
def judge(classifier: Classifier, images: Tensor) -> Judgment:
    """Classify images, uint8 (n, channels, height, width), in bounded memory."""
    features = torch.cat([classifier.features(pixels(part, binarize=False)) for part in images.split(_CHUNK)])
    return Judgment(features, classifier.head(features).softmax(dim=1))


def accuracy(judgment: Judgment, labels: Tensor) -> tuple[float, float]:
    """The share of images whose most probable class is their label, int64 (n,), and its binomial standard error."""
    share = (judgment.probabilities.argmax(dim=1) == labels).double().mean().item()
    return share, math.sqrt(share * (1 - share) / len(labels))


def save(classifier: Classifier, path: str | Path, prepared: Mapping[str, Any]) -> None:
    """Write the weights, and the metadata of the images that they were trained on."""
    files.write_tensors(path, classifier.state_dict(), {key: prepared[key] for key in SAME})


def load(path: str | Path, prepared: Mapping[str, Any], device: str = "cpu") -> Classifier:
    """Rebuild a saved classifier, ready to use: in evaluation mode, its parameters fixed.

    Raises:
        InputError: the file is missing or damaged, does not hold a classifier, or one of other images than those with
            the metadata `prepared`.
    """
    classifier, metadata = modules.load(path, device, "classifier", _build)
    check_same_data(path, metadata, prepared)
    return classifier


def _build(metadata: Mapping[str, Any]) -> Classifier:
    channels, height, width = metadata["image_shape"]
    return Classifier((channels, height, width), len(metadata["classes"]))
