"""Saving and restoring the whole state of a run: tensors, progress and random state."""

from pathlib import Path

import torch

from vae.training import checkpoints
from vae.training.progress import Progress
from vae.training.step import Step


def save(step: Step, progress: Progress, folder: Path) -> None:
    """Write the state to `folder`."""
    state = {"progress": vars(progress), "tensors": step.tensors(), "random": torch.get_rng_state()}
    if step.images.device.type == "cuda":
        state["cuda_random"] = torch.cuda.get_rng_state(step.images.device)
    checkpoints.write(folder, state)


def resume(step: Step, epochs: int, folder: Path) -> Progress | None:
    """Restore the state in `folder` and return its progress; None if there is none, or if it is beyond `epochs`."""
    state = checkpoints.read(folder)
    if state is None:
        return None
    progress = Progress(**state["progress"])
    if (progress.epoch, progress.batch) > (epochs, 0):
        return None
    step.restore(state["tensors"])
    torch.set_rng_state(state["random"])
    if "cuda_random" in state:
        torch.cuda.set_rng_state(state["cuda_random"], step.images.device)
    print(f"resuming from checkpoint: after epoch {progress.epoch} and {progress.batch} steps of the next", flush=True)
    return progress
