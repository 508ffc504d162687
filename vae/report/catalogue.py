"""What the report says of each metric and picture: its group, its name, its unit and what to make of it."""

from typing import NamedTuple


class Measure(NamedTuple):
    """A metric's name, its unit, the format of its number, and half a line on what it means."""

    name: str
    unit: str
    form: str
    meaning: str


class Picture(NamedTuple):
    """A picture's title, what it shows to those who cannot see it, and what to look for."""

    title: str
    shows: str
    look: str


class Group(NamedTuple):
    """One section of the report: metrics by their key and pictures by their file's name, in the order shown."""

    key: str
    title: str
    introduction: str
    measures: dict[str, Measure]
    pictures: dict[str, Picture]


NATS = "nats per image"

LIKELIHOOD = Group(
    "likelihood",
    "Likelihood",
    "How probable the model finds images that it has not seen, on a draw of their pixels that is made once and kept.",
    {
        "test_nll": Measure(
            "Negative log-likelihood", NATS, ".2f", "of test images, by importance sampling; lower is better"
        ),
        "test_elbo": Measure("ELBO", NATS, ".2f", "the evidence lower bound on test images; higher is better"),
        "bits_per_dim": Measure(
            "Bits per dimension", "bits per pixel", ".4f", "the negative log-likelihood for each pixel"
        ),
        "kl": Measure("Rate", NATS, ".2f", "what the latent code costs: KL of posterior from prior"),
        "reconstruction_nll": Measure("Distortion", NATS, ".2f", "what the code leaves open: the ELBO's other term"),
        "importance_ess": Measure(
            "Effective sample size",
            "draws",
            ".1f",
            "of the importance weights; near 1, the NLL is a loose bound",
        ),
        "nll_gain_last_half": Measure(
            "Gain of the last half", NATS, ".4f", "how far twice the draws lowered the NLL; near 0, it has settled"
        ),
        "elbo_gap": Measure(
            "Train-test gap", NATS, ".2f", "training images' ELBO above the test images'; large when overfitted"
        ),
        "train_elbo": Measure("Training ELBO", NATS, ".2f", "mean over the kept epoch's steps"),
        "validation_elbo": Measure("Validation ELBO", NATS, ".2f", "on images held out from training"),
        "best_epoch": Measure("Epoch kept", "epoch", ".0f", "after which the stored weights were taken"),
    },
    {
        "elbo": Picture(
            "ELBO by epoch",
            "Line charts of the ELBO, its rate and its distortion over the epochs, for training and validation images.",
            "The two curves should rise together and level off. A validation curve that falls tells of overfitting.",
        ),
    },
)

RECONSTRUCTION = Group(
    "reconstruction",
    "Reconstruction",
    "How well an image survives being encoded and decoded again.",
    {
        "reconstruction_mse": Measure("Squared error", "per pixel", ".4f", "of pixels in [0, 1]; lower is better"),
        "reconstruction_ssim": Measure("Structural similarity", "SSIM", ".4f", "1: the same picture; 0: nothing alike"),
        "reconstruction_error_rate": Measure(
            "Wrong pixels", "of all", ".2%", "binary pixels on the wrong side of one half"
        ),
    },
    {
        "reconstructions": Picture(
            "Reconstructions",
            "Test images of each class, the pixels that the model saw of them and its reconstructions, row under row.",
            "A reconstruction keeps the shape and smooths the noise. Watch for strokes or classes that change.",
        ),
        "reconstructions_extremes": Picture(
            "Best and worst reconstructions",
            "For each class the test images with the lowest and with the highest reconstruction loss.",
            "The worst ones are rare shapes or poor scans; a whole class among them would be a fault of the model.",
        ),
        "reconstructions_by_epoch": Picture(
            "Reconstructions by epoch",
            "One test image of each class, and its reconstruction after chosen epochs, row under row.",
            "Early rows show an average image; the image's own traits come in with the epochs.",
        ),
        "error_by_class": Picture(
            "Error by class",
            "Charts of the test images' mean errors for each class, with their standard errors.",
            "Classes with long strokes cost more nats. A class far above the others was learned badly.",
        ),
        "uncertainty": Picture(
            "Uncertainty by pixel",
            "Test images over two maps of each pixel's spread: the pixel's own and that of the code behind it.",
            "Doubt should sit on the edges of strokes; doubt inside a shape means that the code leaves the shape open.",
        ),
    },
)

LATENT_SPACE = Group(
    "latent-space",
    "Latent space",
    "What the code holds, judged by labels that only a conditional model ever sees.",
    {
        "active_units": Measure(
            "Active units", "dimensions", ".0f", "dimensions whose posterior mean varies over images by more than 0.01"
        ),
        "prior_mmd": Measure(
            "Distance from the prior", "MMD", ".4f", "between posterior draws of all images and prior draws; 0: alike"
        ),
        "probe_accuracy": Measure("Linear probe", "of test images", ".2%", "classes read off by a logistic regression"),
        "neighbour_accuracy": Measure(
            "Nearest neighbours", "of test images", ".2%", "classes read off from the nearest training images"
        ),
        "cluster_ari": Measure(
            "Adjusted Rand index", "1 at most", ".3f", "agreement of clusters with classes; 0: as if by chance"
        ),
        "cluster_nmi": Measure("Mutual information", "0 to 1", ".3f", "the same agreement, normalised; 1: identical"),
    },
    {
        "embedding": Picture(
            "Embedding",
            "Scatter plot of the test images' posterior means in two dimensions, coloured by class.",
            "Islands of one colour mean that the code tells the classes apart.",
        ),
        "embedding_by_class": Picture(
            "Embedding, class by class",
            "One small scatter plot for each class, its points over all the others in grey.",
            "Look for classes in several islands, and for islands that classes share.",
        ),
        "embedding_thumbnails": Picture(
            "Embedding with images",
            "The embedding, with small test images at their places.",
            "Neighbours should resemble each other in slant and weight, not only in class.",
        ),
        "kl_per_dimension": Picture(
            "KL by dimension",
            "Bar chart of the KL divergence of each latent dimension, in falling order.",
            "Dimensions at 0 carry nothing: the model pruned them. Under a learned prior bars do not sum to the rate.",
        ),
        "confusion": Picture(
            "Confusion",
            "Matrix of actual classes against those of the nearest neighbours in the latent space.",
            "Off the diagonal stand the classes that look alike, such as 4 and 9 among digits.",
        ),
        "traversals": Picture(
            "Traversals",
            "Decoded images while one latent dimension at a time moves from low to high, the most active ones first.",
            "Each row should change one trait smoothly, slant or weight or a loop.",
        ),
        "interpolations": Picture(
            "Interpolations",
            "Decoded images on the way from one test image's code to another's.",
            "Steps between should still be images of a class. Ghosts of both ends mean holes in the latent space.",
        ),
        "manifold": Picture(
            "Manifold",
            "Decoded images on a grid over the two-dimensional latent space.",
            "Classes should flow into each other without empty stretches.",
        ),
    },
)

SAMPLES = Group(
    "samples",
    "Samples",
    "How close draws from the model come to real images, in the features of a small classifier. "
    "Beside each figure stands what real training images reach against the same test images: no model can be better.",
    {
        "frechet_distance": Measure("Fréchet distance", "squared features", ".2f", "between features; lower is better"),
        "precision": Measure("Precision", "of samples", ".1%", "that lie among real images: how many look right"),
        "recall": Measure("Recall", "of test images", ".1%", "that lie among samples: how much variety is there"),
        "sample_confidence": Measure("Confidence on samples", "probability", ".3f", "the classifier's, on average"),
        "test_confidence": Measure("Confidence on test images", "probability", ".3f", "the same on real images"),
        "class_balance": Measure("Class balance", "1 at most", ".3f", "how evenly samples fall into classes"),
        "neighbour_distance_ratio": Measure(
            "Distance to training images",
            "ratio",
            ".3f",
            "samples' over test images'; far below 1, it memorises",
        ),
        "classifier_accuracy": Measure("The classifier's accuracy", "of test images", ".2%", "how far to trust it"),
    },
    {
        "samples": Picture(
            "Samples",
            "Decoded draws from the prior in a grid.",
            "Most should be of some class at first sight, and no two the same.",
        ),
        "samples_by_class": Picture(
            "Samples by class",
            "Decoded draws from the prior, one in each row and a class in each column.",
            "Along a row the style stays, down a column the class.",
        ),
        "samples_neighbours": Picture(
            "Samples and their nearest training images",
            "Draws from the model over the training images nearest to them.",
            "A sample that is a copy of its neighbour would have been memorised.",
        ),
    },
)

# Columns of the table of errors by class; the first two name the class and count its images.
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

GROUPS = (LIKELIHOOD, RECONSTRUCTION, LATENT_SPACE, SAMPLES)
HEADLINE = ("test_nll", "test_elbo", "active_units", "probe_accuracy", "frechet_distance")
