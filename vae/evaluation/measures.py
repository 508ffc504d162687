"""The name, unit, format and meaning of each metric; imports nothing heavy."""

from typing import NamedTuple


class Measure(NamedTuple):
    """A metric's name, unit, number format, meaning in half a line, and group."""

    name: str
    unit: str
    form: str
    meaning: str
    group: str


STDERR, REAL = "_stderr", "_real"  # suffixes of keys that are shown with another key's value
BESIDE = (STDERR, REAL)
RELAXED = "relaxed_"  # prefix of keys in nats or bits if the loss is not a likelihood

_NATS = "nats per image"

# In the order of tables. `X_stderr`, the standard error, and `X_real`, the value for real images, are shown with `X`.
# Errors cover the choice of images and what is drawn or started again, but no other training of the model or of the
# classifier that judges samples.
_GROUPS = {
    "likelihood": {
        "test_nll": (
            "Negative log-likelihood",
            _NATS,
            ".2f",
            "of test images, by importance sampling; lower is better",
        ),
        "test_elbo": ("ELBO", _NATS, ".2f", "the evidence lower bound on test images; higher is better"),
        "bits_per_dim": ("Bits per dimension", "bits per pixel", ".4f", "the negative log-likelihood per pixel"),
        "kl": ("Rate", _NATS, ".2f", "cost of the latent code: KL of posterior from prior"),
        "reconstruction_nll": ("Distortion", _NATS, ".2f", "cost of the pixels given the code: the ELBO's other term"),
        "importance_ess": (
            "Effective sample size",
            "draws",
            ".1f",
            "of the importance weights; near 1, the NLL is a loose bound",
        ),
        "nll_gain_last_half": (
            "Gain of the last half",
            _NATS,
            ".4f",
            "how far doubling the draws lowered the NLL; near 0, it has settled",
        ),
        "elbo_gap": (
            "Train-test gap",
            _NATS,
            ".2f",
            "training images' ELBO above the test images'; large when overfitted",
        ),
        "train_elbo": ("Training ELBO", _NATS, ".2f", "mean over the kept epoch's steps"),
        "validation_elbo": ("Validation ELBO", _NATS, ".2f", "on images held out from training"),
        "best_epoch": ("Epoch kept", "epoch", ".0f", "after which the stored weights were taken"),
        "epochs": ("Epochs trained", "epochs", ".0f", "where the run was ended by hand before its last one"),
    },
    "reconstruction": {
        "reconstruction_mse": ("Squared error", "per pixel", ".4f", "of pixels in [0, 1]; lower is better"),
        "reconstruction_ssim": ("Structural similarity", "SSIM", ".4f", "1: identical; 0: no similarity"),
        "reconstruction_error_rate": ("Wrong pixels", "of all", ".2%", "binary pixels on the wrong side of one half"),
    },
    "latent-space": {
        "active_units": (
            "Active units",
            "dimensions",
            ".0f",
            "dimensions whose posterior mean varies over images by more than 0.01",
        ),
        "prior_mmd": (
            "Distance from the prior",
            "MMD",
            ".4f",
            "between posterior draws of all images and prior draws; 0: identical",
        ),
        "probe_accuracy": ("Linear probe", "of test images", ".2%", "classes predicted by a logistic regression"),
        "neighbor_accuracy": (
            "Nearest neighbors",
            "of test images",
            ".2%",
            "classes predicted by the nearest training images",
        ),
        "cluster_ari": (
            "Adjusted Rand index",
            "1 at most",
            ".3f",
            "agreement of the likeliest of four clusterings with classes; 0: chance",
        ),
        "cluster_nmi": ("Mutual information", "0 to 1", ".3f", "the same agreement, normalized; 1: identical"),
    },
    "samples": {
        "frechet_distance": ("Fréchet distance", "squared features", ".2f", "between features; lower is better"),
        "precision": ("Precision", "of samples", ".1%", "that lie among real images; measures quality"),
        "recall": ("Recall", "of test images", ".1%", "that lie among samples; measures variety"),
        "sample_confidence": ("Confidence on samples", "probability", ".3f", "the classifier's, on average"),
        "test_confidence": ("Confidence on test images", "probability", ".3f", "the same on real images"),
        "class_balance": ("Class balance", "1 at most", ".3f", "how evenly samples fall into classes"),
        "neighbor_distance_ratio": (
            "Distance to training images",
            "ratio",
            ".3f",
            "samples' mean over test images'; far below 1, the model memorizes",
        ),
        "classifier_accuracy": ("The classifier's accuracy", "of test images", ".2%", "how far to trust its judgment"),
    },
}
MEASURES = {key: Measure(*words, group) for group, measures in _GROUPS.items() for key, words in measures.items()}
