"""Checks of a user's inputs before anything is computed, with one sentence for each mistake.

Shapes and types cost nothing to check. Checking values makes a GPU wait, so the methods that evaluation calls in
its loops skip that, and the Pyro programs check nothing at all.
"""

import torch
from torch import Tensor


def check_images(images: Tensor, shape: tuple[int, int, int], like: Tensor, values: bool = True) -> None:
    """Raise unless `images` are a batch, float (n, channels, height, width) from 0 to 1, that fits weights like `like`.

    Raises:
        TypeError: they are not a tensor, or not of the weights' type.
        ValueError: their shape, device or values are wrong.
    """
    _check_tensor("images", images, like)
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        expected = ", ".join(str(size) for size in shape)
        raise ValueError(f"images: got shape {tuple(images.shape)}, expected (n, {expected})")
    if len(images) == 0:
        raise ValueError("images: got an empty batch, expected at least one image")
    if values and not ((images >= 0) & (images <= 1)).all():
        if images.isnan().any():
            raise ValueError("images: got NaN among the values, expected numbers from 0 to 1")
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"images: got values from {low:g} to {high:g}, expected from 0 to 1")


def check_latents(latents: Tensor, dim: int, like: Tensor) -> None:
    """Raise, as above, unless `latents` are finite float vectors (..., dim) that fit weights like `like`."""
    _check_tensor("latents", latents, like)
    if latents.ndim == 0 or latents.shape[-1] != dim or latents.numel() == 0:
        raise ValueError(f"latents: got shape {tuple(latents.shape)}, expected (..., {dim}) and at least one vector")
    if not latents.isfinite().all():
        raise ValueError("latents: got values that are not finite")


def check_labels(labels: Tensor | None, classes: int, shape: torch.Size, like: Tensor, values: bool = True) -> None:
    """Raise unless labels are int64 from 0 to classes - 1, one per image of a batch of `shape`.

    A model without classes ignores them. They may broadcast to the shape.

    Raises:
        TypeError: they are not an int64 tensor.
        ValueError: they are missing, or their shape, device or values are wrong.
    """
    if not classes:
        return
    if labels is None:
        raise ValueError("labels: missing; the model is conditional: give the images' labels too")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels: got {_kind(labels)}, expected a tensor of type torch.int64")
    if labels.device != like.device:
        raise ValueError(f"labels: on {labels.device}, but the model is on {like.device}")
    if not _broadcasts(labels.shape, shape):
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, expected {tuple(shape)}")
    if values and not ((labels >= 0) & (labels < classes)).all():
        low, high = labels.min().item(), labels.max().item()
        raise ValueError(f"labels: got values from {low} to {high}, expected from 0 to {classes - 1}")


def check_count(n: int) -> None:
    """Raise ValueError unless there is at least one draw."""
    if n < 1:
        raise ValueError(f"n: got {n}, expected at least 1")


def _check_tensor(name: str, tensor: Tensor, like: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {_kind(tensor)}, expected a torch.Tensor")
    if tensor.dtype != like.dtype:
        eight_bit = name == "images" and tensor.dtype == torch.uint8
        advice = "divide 8-bit images by 255" if eight_bit else f"convert them with .to({like.dtype})"
        raise TypeError(f"{name}: got {tensor.dtype}, expected {like.dtype}; {advice}")
    if tensor.device != like.device:
        raise ValueError(f"{name}: on {tensor.device}, but the model is on {like.device}")


def _kind(thing: object) -> str:
    if isinstance(thing, Tensor):
        return f"a tensor of type {thing.dtype}"
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    if len(shape) > len(target):
        return False
    return all(size in (1, wanted) for size, wanted in zip(shape[::-1], target[::-1], strict=False))
