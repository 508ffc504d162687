"""Pictures of a trained VAE: arrays and frames in, matplotlib figures out; opens no files."""

from vae.figures.captions import DATASETS, LIKELIHOODS, METHODS, describe
from vae.figures.charts import confusion, elbo, error_by_class, kl_per_dimension
from vae.figures.images import (
    reconstructions,
    reconstructions_by_epoch,
    reconstructions_extremes,
    samples,
    samples_by_class,
    samples_neighbours,
    uncertainty,
)
from vae.figures.latents import interpolations, manifold, traversals
from vae.figures.maps import embedding, embedding_by_class, embedding_thumbnails

__all__ = [
    "DATASETS",
    "LIKELIHOODS",
    "METHODS",
    "confusion",
    "describe",
    "elbo",
    "embedding",
    "embedding_by_class",
    "embedding_thumbnails",
    "error_by_class",
    "interpolations",
    "kl_per_dimension",
    "manifold",
    "reconstructions",
    "reconstructions_by_epoch",
    "reconstructions_extremes",
    "samples",
    "samples_by_class",
    "samples_neighbours",
    "traversals",
    "uncertainty",
]
