"""The end of an epoch: checks for finite numbers, validation, snapshots and the best weights."""

import math

import torch
from torch import Tensor

from vae.data.images import Split, pixels
from vae.errors import WorkError
from vae.model import VAE
from vae.seeds import derive
from vae.settings import Train
from vae.training.data import Data
from vae.training.progress import Progress, columns, is_best
from vae.training.step import Step
from vae.training.validation import mean_bound, mean_terms


def finish(step: Step, progress: Progress, data: Data, settings: Train) -> None:
    """Evaluate the weights after an epoch's last step, and add the results to `progress`.

    Raises:
        WorkError: a loss, a weight, the validation ELBO or the validation bound is not finite.
    """
    log_likelihood, kl, rate, error = finite_means(step, progress, settings)
    progress.epoch, progress.batch = progress.epoch + 1, 0
    row = {"epoch": progress.epoch} | columns("train", log_likelihood, kl)
    errors = {"train_elbo": error} if _loss_is_elbo(settings, progress.epoch) and len(step.losses) > 1 else {}
    step.model.eval()
    with step.averaged():
        if data.validation is not None:
            seed = derive(settings.seed, "train.validation")
            log_likelihood, kl, errors["validation_elbo"] = mean_terms(step.model, data.validation, seed)
            row |= columns("validation", log_likelihood, kl)
            if settings.objective != "elbo":
                seed = derive(settings.seed, "train.validation_bound")
                bound = mean_bound(step.model, data.validation, seed, settings.particles)
                row["validation_bound"] = round(bound, 4)
            for name, what in (("validation_elbo", "ELBO"), ("validation_bound", "bound")):
                if not math.isfinite(row.get(name, 0)):
                    raise _diverged(f"the validation {what} is not finite after epoch {progress.epoch}", settings)
        if progress.epoch in settings.snapshot_epochs:
            progress.snapshots[progress.epoch] = _reconstruct(step.model, data.showcase)
        best = progress.history[progress.best_epoch - 1] if progress.best_epoch else None
        if settings.kept_epoch == "last" or is_best(row, best, settings.kl_warmup_epochs):
            progress.best_epoch, progress.errors = progress.epoch, errors
            progress.best = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    step.model.train()
    progress.history.append(row | {"learning_rate": rate})


def take_last_snapshot(model: VAE, progress: Progress, data: Data) -> None:
    """Make the best epoch's snapshot the last one, as its weights are the ones that are kept."""
    earlier = {epoch: images for epoch, images in sorted(progress.snapshots.items()) if epoch < progress.best_epoch}
    progress.snapshots = earlier | {progress.best_epoch: _reconstruct(model, data.showcase)}


@torch.no_grad()
def finite_means(step: Step, progress: Progress, settings: Train) -> list[float]:
    """Mean log-likelihood and KL of the epoch's images so far, the learning rate, and the mean loss's standard error.

    Raises:
        WorkError: a loss of the epoch or a weight is not finite.
    """
    # In one tensor, as each read makes the host wait for the device.
    largest = torch.stack(torch._foreach_norm(step.parameters, math.inf))
    checks = torch.stack([step.losses.isfinite().all(), largest.isfinite().all()])
    means = step.totals / len(step.images)
    values = torch.stack([step.rate.double(), _error_of_mean(step)])
    losses_finite, weights_finite, *values = torch.cat([checks.double(), means, values]).tolist()
    epoch, steps = progress.epoch + 1, len(step.losses)
    if not losses_finite:
        failed = step.losses.isfinite().logical_not().nonzero()[0].item() + 1
        raise _diverged(f"the loss is not finite at epoch {epoch}, step {failed} of {steps}", settings)
    if not weights_finite:
        raise _diverged(f"the weights are not finite after epoch {epoch}, step {progress.batch} of {steps}", settings)
    return values


def _error_of_mean(step: Step) -> Tensor:
    """The standard error over an epoch's images of their mean loss, float64 (), from the mini-batches' means.

    Each image has its mini-batch's weights, so the change of weights within the epoch is part of it.
    """
    losses, images = step.losses.double(), len(step.images)
    sizes = torch.full_like(losses, step.settings.batch_size)
    sizes[-1] = images - step.settings.batch_size * (len(losses) - 1)
    mean = (sizes * losses).sum() / images
    # The mean of a mini-batch has the variance of an image's loss divided by its size.
    variance = (sizes * (losses - mean).square()).sum() / (len(losses) - 1)
    return (variance / images).sqrt()


def _loss_is_elbo(settings: Train, epoch: int) -> bool:
    """Whether the loss of an epoch's steps is minus the ELBO, without other weights of the KL."""
    plain = settings.objective == "elbo" and settings.beta == 1 and not settings.free_bits
    return plain and epoch > settings.kl_warmup_epochs


def _diverged(what: str, settings: Train) -> WorkError:
    return WorkError(
        f"{what}: lower train.learning_rate (now {settings.learning_rate:g}) "
        f"or set train.gradient_clip (now {settings.gradient_clip:g}; try 10)"
    )


@torch.no_grad()
def _reconstruct(model: VAE, split: Split) -> Tensor:
    return model.reconstruct(pixels(split.images, binarize=False), split.labels).cpu()
