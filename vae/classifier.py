"""A small convolutional classifier: what it sees in images is how draws from a model are compared with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from vae import storage
from vae.errors import InputError, WorkError
from vae.preparation import Split, pixels
from vae.settings import Classify

FEATURES = 64
_CHUNK = 1_000  # images judged at once


class Classifier(nn.Module):
    """Images, float (n, height, width) with values from 0 to 1, to the classes' logits, shape (n, classes)."""

    def __init__(self, image_shape: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        convolutions = nn.Sequential(
            *_convolution(1, 16, size=5, stride=2),
            *_convolution(16, 32),
            nn.MaxPool2d(2, ceil_mode=True),
            *_convolution(32, 48),
            *_convolution(48, 48),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
        )
        height, width = (-(-side // 8) for side in image_shape)
        self.body = nn.Sequential(convolutions, nn.Linear(48 * height * width, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)
        # A third faster on a CPU.
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees of each image, shape (n, FEATURES)."""
        return self.body(images.unsqueeze(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


class Judgement(NamedTuple):
    """What a classifier makes of n images: features (n, FEATURES) and the classes' probabilities (n, classes)."""

    features: Tensor
    probabilities: Tensor


def train(split: Split, classes: int, draw: bool, settings: Classify) -> Classifier:
    """Learn a split's labels, int64 (n,), from its images, uint8 (n, height, width), on the device that they are on.

    With `draw` each mini-batch draws its pixels afresh from the images' intensities. The rate of Adam follows one
    cycle (Smith & Topin 2017).

    Raises:
        WorkError: the weights are not finite in the end.
    """
    images, labels = split["images"], split["labels"]
    torch.manual_seed(settings.seed)
    classifier = Classifier(tuple(images.shape[1:]), classes).to(images.device)
    steps = -(-len(images) // settings.batch_size)
    adam = torch.optim.Adam(classifier.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, settings.learning_rate, total_steps=settings.epochs * steps)
    with tqdm(total=settings.epochs * len(images), unit="image", desc="classifier", disable=None) as bar:
        for _ in range(settings.epochs):
            for chosen in torch.randperm(len(images), device=images.device).tensor_split(steps):
                loss = F.cross_entropy(classifier(pixels(images[chosen], draw)), labels[chosen])
                adam.zero_grad()
                loss.backward()
                adam.step()
                schedule.step()
                bar.update(len(chosen))
    if not all(tensor.isfinite().all() for tensor in classifier.state_dict().values()):
        raise WorkError(
            f"the classifier's weights are not finite: lower classify.learning_rate (now {settings.learning_rate:g})"
        )
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def judge(classifier: Classifier, images: Tensor) -> Judgement:
    """Look at images, uint8 (n, height, width), in bounded memory."""
    features = torch.cat([classifier.features(pixels(part, draw=False)) for part in images.split(_CHUNK)])
    return Judgement(features, classifier.head(features).softmax(dim=1))


def accuracy(judgement: Judgement, labels: Tensor) -> float:
    """The share of images whose most probable class is their label, int64 (n,)."""
    return (judgement.probabilities.argmax(dim=1) == labels).double().mean().item()


def save(classifier: Classifier, path: str | Path, classes: Sequence[str]) -> None:
    """Write the weights, the shape of the images and the classes' names."""
    metadata = {"image_shape": list(classifier.image_shape), "classes": list(classes)}
    storage.write_tensors(path, classifier.state_dict(), metadata)


def load(path: str | Path, device: str = "cpu") -> Classifier:
    """Rebuild a saved classifier, ready to use: in evaluation mode, its parameters fixed.

    Raises:
        InputError: the file is missing or damaged.
    """
    weights, metadata = storage.read_tensors(path, device)
    try:
        classifier = Classifier(tuple(metadata["image_shape"]), len(metadata["classes"])).to(device)
        classifier.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: no classifier that this code can read ({error}); run `dvc repro`") from error
    return classifier.eval().requires_grad_(False)
