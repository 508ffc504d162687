"""Evaluate a model on a test set, and summarize the results by image, by class, by dimension and overall."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from vae import ranks
from vae.data.images import Split
from vae.evaluation import latent_space, likelihood, reconstruction
from vae.evaluation.uncertainty import Estimate
from vae.model import VAE
from vae.seeds import derive
from vae.settings import Evaluate

_TRAINING_DRAWS = 10  # per image; the mean ELBO varies more with the choice of images than with these draws


class Findings(NamedTuple):
    """The measurements, all on the CPU; `labels` are those of the n test images, int64 (n,)."""

    labels: Tensor
    scores: likelihood.Scores
    training_elbo: Tensor  # float64 (m,), of the training images
    errors: reconstruction.Errors
    means: Tensor  # float32 (n, latent_dim)
    kl_per_dimension: Tensor  # float32 (latent_dim,)
    prior_mmd: Estimate
    classified: latent_space.Classified


def examine(model: VAE, test: Split, training: Split, binary: bool, settings: Evaluate) -> Findings | None:
    """Evaluate a model on the test images; training images serve to fit the probes and to detect overfitting.

    Both splits are on the model's device; `binary` says whether all pixels are 0 or 255. Ranks share the likelihood,
    which takes most of the time; the first one measures the rest, and the others return None.
    """

    def seed(purpose: str) -> int:
        return derive(settings.seed, f"evaluate.{purpose}")

    scores = likelihood.score(model, test, settings.importance_samples, seed("likelihood"))
    training_elbo = likelihood.score(model, training, _TRAINING_DRAWS, seed("training_elbo")).elbo
    if ranks.rank() > 0:
        return None
    labels = test.labels.cpu()
    means, training_means = latent_space.represent(model, test), latent_space.represent(model, training)
    return Findings(
        labels=labels,
        scores=scores,
        training_elbo=training_elbo,
        errors=reconstruction.measure(model, test, binary),
        means=means,
        kl_per_dimension=latent_space.kl_per_dimension(model, test, seed("kl_per_dimension")),
        prior_mmd=latent_space.prior_mmd(model, test, seed("prior_mmd")),
        classified=latent_space.classify(training_means, training.labels.cpu(), means, labels, seed("clusters")),
    )


def metrics(findings: Findings, dimensions: int) -> dict[str, float]:
    """The flat metrics of the whole test set; `dimensions` of an image are its channels times its pixels."""
    return {
        **likelihood.metrics(findings.scores, dimensions, findings.training_elbo),
        **reconstruction.metrics(findings.errors),
        **latent_space.metrics(findings.means, findings.prior_mmd, findings.classified),
    }


def arrays(findings: Findings) -> dict[str, np.ndarray]:
    """The values of each test image, including its posterior mean and its label, and `kl_per_dimension`."""
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
    """One row per class that has images: its name, its count, and the mean of each measure to 4 decimals.

    The column of the error rate is empty if pixels are gray.
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
    """One row per latent dimension, in descending order of nats."""
    kl = findings.kl_per_dimension
    order = kl.argsort(descending=True, stable=True).tolist()
    return [
        {"rank": rank, "dimension": dimension, "kl": f"{kl[dimension]:.4f}"}
        for rank, dimension in enumerate(order, start=1)
    ]


def confusion(findings: Findings, classes: Sequence[str]) -> list[dict[str, str]]:
    """One row per test image: its class, and the majority class of its nearest neighbors in the latent space."""
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
