"""The report's sections, its headline and the columns of its table of errors by class."""

from typing import NamedTuple


class Section(NamedTuple):
    """A section's title and introduction."""

    title: str
    introduction: str


# By the group of metrics and pictures.
SECTIONS = {
    "likelihood": Section(
        "Likelihood",
        "The likelihood of unseen images, whose pixels were binarized once and kept.",
    ),
    "reconstruction": Section("Reconstruction", "How well images survive encoding and decoding."),
    "latent-space": Section(
        "Latent space", "What the code represents, judged by labels that only conditional models see in training."
    ),
    "samples": Section(
        "Samples",
        "How close samples are to real images, in the features of a small classifier. Some values come with those of "
        "real training images against the same test images, which are the target.",
    ),
    "others": Section("Further results", "Metrics and pictures without their own section."),
}

HEADLINE = ("test_nll", "test_elbo", "active_units", "probe_accuracy", "frechet_distance")

# The first column names the class, the second counts its images.
BY_CLASS = {
    "class": ("Class", ""),
    "images": ("Images", ""),
    "nll": ("NLL", ".2f"),
    "elbo": ("ELBO", ".2f"),
    "reconstruction_nll": ("Distortion", ".2f"),
    "mse": ("Squared error", ".4f"),
    "ssim": ("SSIM", ".4f"),
    "error_rate": ("Wrong pixels", ".2%"),
}
