"""Train the classifier that judges samples: data/prepared -> data/classifier.safetensors, metrics/classify.json."""

from stages import run
from vae.data.splits import read_splits
from vae.device import set_up
from vae.evaluation.classifier import accuracy, judge, save, train
from vae.files import write_json
from vae.settings import Settings


def classify(settings: Settings) -> None:
    """Train it on images as the model sees them, and test it on the pixels that the prepare stage drew."""
    device = set_up(settings.train.device)
    splits, prepared = read_splits("data/prepared", "train", "test")
    training, test = splits["train"].to(device), splits["test"].to(device)
    classifier = train(training, len(prepared["classes"]), prepared["binarization"] == "dynamic", settings.classify)
    share, error = accuracy(judge(classifier, test.images), test.labels)
    save(classifier, "data/classifier.safetensors", prepared)
    measured = {"classifier_accuracy": share, "classifier_accuracy_stderr": error}
    write_json("metrics/classify.json", {name: round(value, 4) for name, value in measured.items()})


if __name__ == "__main__":
    run(classify)
