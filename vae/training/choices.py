"""What `auto` means: the way of computing a step, and its precision, that suit a run and its device."""

import math

import torch

from vae.settings import Train
from vae.training.gradients import compiler

# Steps from which it pays: recording takes a tenth of a second to one, compiling up to a minute.
_RECORDED, _COMPILED = 100, 10_000


def resolved(settings: Train, images: int, device: torch.device) -> Train:
    """The settings of a run on that many images with `auto` replaced, by rules that time nothing, so that bytes repeat.

    `step` becomes `graph` on CUDA; on a CPU `compiled` for long runs if there is a C++ compiler, `recorded` for shorter
    ones, `eager` for a few steps. `precision` becomes `bfloat16` on a CPU that multiplies it natively, otherwise
    `float32`.
    """
    steps = math.ceil(images / settings.batch_size) * settings.epochs
    step = _step(steps, device) if settings.step == "auto" else settings.step
    precision = _precision(device) if settings.precision == "auto" else settings.precision
    return settings.model_copy(update={"step": step, "precision": precision})


def _step(steps: int, device: torch.device) -> str:
    if device.type == "cuda":
        return "graph"
    if device.type != "cpu" or steps < _RECORDED:
        return "eager"
    return "compiled" if steps >= _COMPILED and compiler() else "recorded"


def _precision(device: torch.device) -> str:
    native = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bfloat16" if native else "float32"
