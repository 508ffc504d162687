"""Train the classifier that judges samples: data/prepared -> data/classifier.safetensors, metrics/classify.json."""

from stages import run
from vae.classifier import accuracy, judge, save, train
from vae.device import set_up
from vae.settings import Settings
from vae.storage import read_tensors, write_json


def classify(settings: Settings) -> None:
    """Train it on the images as the model sees them, and test it on the pixels that the prepare stage drew once."""
    device = set_up(settings.train.device)
    training, metadata = read_tensors("data/prepared/train.safetensors", str(device))
    test, _ = read_tensors("data/prepared/test.safetensors", str(device))
    classes = metadata["classes"]
    classifier = train(training, len(classes), metadata["binarization"] == "dynamic", settings.classify)
    score = accuracy(judge(classifier, test["images"]), test["labels"])
    save(classifier, "data/classifier.safetensors", classes)
    write_json("metrics/classify.json", {"classifier_accuracy": round(score, 4)})


if __name__ == "__main__":
    run(classify)
