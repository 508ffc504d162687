"""All that is measured of a model on a test set, and its summaries: by image, by class, by dimension, as a whole."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from vae.evaluation import latent, likelihood, reconstruction
from vae.model import VAE
from vae.preparation import Split
from vae.settings import Evaluate

_TRAINING_DRAWS = 10  # an image; the images' own variety leaves the mean ELBO more uncertain than these draws do


class Findings(NamedTuple):
    """What was measured, all of it on the CPU; `labels` are those of the n test images, int64 (n,)."""

    labels: Tensor
    scores: likelihood.Scores
    training_elbo: Tensor  # float64 (m,), of the training images
    errors: reconstruction.Errors
    means: Tensor  # float32 (n, latent_dim)
    kl_per_dimension: Tensor  # float32 (latent_dim,)
    prior_mmd: float
    classified: latent.Classified


def examine(model: VAE, test: Split, training: Split, binary: bool, settings: Evaluate) -> Findings:
    """Measure a model on the test images; training images teach the probes and show what is learned by heart.

    Images are uint8 (n, height, width), 0 or 255 where they are `binary`, labels int64 (n,), on the model's device.
    """
    seed, labels = settings.seed, test["labels"].cpu()
    means, training_means = latent.represent(model, test), latent.represent(model, training)
    return Findings(
        labels=labels,
        scores=likelihood.score(model, test, settings.importance_samples, seed),
        training_elbo=likelihood.score(model, training, _TRAINING_DRAWS, seed).elbo,
        errors=reconstruction.measure(model, test, binary),
        means=means,
        kl_per_dimension=latent.kl_per_dimension(model, test, seed),
        prior_mmd=latent.prior_mmd(model, test, seed),
        classified=latent.classify(training_means, training["labels"].cpu(), means, labels, seed),
    )


def metrics(findings: Findings, pixels_an_image: int) -> dict[str, float]:
    """The flat metrics of the whole test set."""
    return {
        **likelihood.metrics(findings.scores, pixels_an_image, findings.training_elbo),
        **reconstruction.metrics(findings.errors),
        **latent.metrics(findings.means, findings.prior_mmd, findings.classified),
    }


def arrays(findings: Findings) -> dict[str, np.ndarray]:
    """What is known of each test image, its posterior mean and its label included, and `kl_per_dimension`."""
    measured = {name: values.float() for name, values in _by_image(findings).items()}
    known = {
        "mean": findings.means,
        "labels": findings.labels,
        **measured,
        "kl": findings.scores.kl.float(),
        "predicted": findings.classified.predicted,
        "kl_per_dimension": findings.kl_per_dimension,
    }
    return {name: np.asarray(values) for name, values in known.items()}


def errors_by_class(findings: Findings, classes: Sequence[str]) -> list[dict[str, object]]:
    """A row a class that has images: its name, how many, and the mean of each measure, to 4 decimals.

    The error rate's column is empty where pixels are grey.
    """
    measured = _by_image(findings)
    rows = []
    for label, name in enumerate(classes):
        chosen = findings.labels == label
        if chosen.any():
            means = {key: f"{values[chosen].mean():.4f}" for key, values in measured.items()}
            rows.append({"class": name, "images": int(chosen.sum()), **means})
            rows[-1].setdefault("error_rate", "")
    return rows


def ranked_kl(findings: Findings) -> list[dict[str, object]]:
    """A row a latent dimension, those that hold the most nats first."""
    kl = findings.kl_per_dimension
    order = kl.argsort(descending=True, stable=True).tolist()
    return [
        {"rank": rank, "dimension": dimension, "kl": f"{kl[dimension]:.4f}"}
        for rank, dimension in enumerate(order, start=1)
    ]


def confusion(findings: Findings, classes: Sequence[str]) -> list[dict[str, str]]:
    """A row a test image: its class, and the one that its nearest neighbours in the latent space vote for."""
    pairs = zip(findings.labels.tolist(), findings.classified.predicted.tolist(), strict=True)
    return [{"actual": classes[actual], "predicted": classes[predicted]} for actual, predicted in pairs]


def _by_image(findings: Findings) -> dict[str, Tensor]:
    scores, errors = findings.scores, findings.errors
    measured = {
        "nll": -scores.log_likelihood,
        "elbo": scores.elbo,
        "reconstruction_nll": scores.reconstruction_nll,
        "mse": errors.mse,
        "ssim": errors.ssim,
        "error_rate": errors.error_rate,
    }
    return {name: values for name, values in measured.items() if values is not None}
