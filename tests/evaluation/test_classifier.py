import pytest
import torch
from sklearn.datasets import load_digits

from tests.conftest import as_split
from tests.fake_cuda import MadeUp
from vae.errors import InputError, WorkError
from vae.evaluation import classifier as module
from vae.evaluation.classifier import FEATURES, Classifier, Judgment, accuracy, judge, load, save, train
from vae.files import read_tensors, write_tensors

pytestmark = pytest.mark.usefixtures("lean")

CLASSES = [str(digit) for digit in range(10)]
PREPARED = {"dataset": "digits", "binarization": "dynamic", "classes": CLASSES, "image_shape": [1, 8, 8]}


@pytest.fixture
def classify_settings(make_settings):
    """Give a function: the `classify` section for the small digits, with some keys changed."""
    small = {"epochs": 1, "batch_size": 64, "learning_rate": 0.003}
    return lambda **keys: make_settings(classify=small | keys).classify


@pytest.fixture
def labeled(digits):
    """The digits of scikit-learn with their labels."""
    return as_split(digits, torch.from_numpy(load_digits().target).long())


@pytest.fixture
def first(labeled):
    """The first 100 of them."""
    return labeled.first(100)


@pytest.fixture
def saved(first, classify_settings, tmp_path):
    """A trained classifier and its file."""
    classifier = train(first, 10, True, classify_settings())
    save(classifier, tmp_path / "classifier.safetensors", PREPARED)
    return classifier, tmp_path / "classifier.safetensors"


@pytest.fixture
def seen(monkeypatch):
    """The images of every mini-batch that a classifier looks at."""
    batches = []
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, images: (batches.append(images), forward(self, images))[1])
    return batches


# --- Training


def test_it_learns_the_small_digits(labeled, classify_settings, device):
    labeled = labeled.to(device)
    classifier = train(labeled.first(1437), 10, False, classify_settings(epochs=10))
    # The last fifth has other writers: nearest neighbors get 96 % of it right, guesses 10 %.
    assert accuracy(judge(classifier, labeled.images[1437:]), labeled.labels[1437:])[0] > 0.93


def test_it_trains_wholly_on_the_device(first, classify_settings, monkeypatch):
    """On `meta`, whose tensors have no values and where Adam has no fused kernel."""
    adam, updated = torch.optim.Adam, []

    def unfused(parameters, fused):
        assert fused
        updated.extend(parameters)
        return adam(updated, foreach=False)

    monkeypatch.setattr(torch.optim, "Adam", unfused)
    with MadeUp():
        classifier = train(first.to("meta"), 10, True, classify_settings())
    assert len(updated) > 10
    assert {tensor.device.type for tensor in classifier.state_dict().values()} == {"meta"}
    assert {parameter.grad.device.type for parameter in updated} == {"meta"}


def test_every_image_is_seen_once_an_epoch_in_a_new_order(classify_settings, seen):
    images = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1).expand(7, 1, 8, 8)
    train(as_split(images, torch.arange(7) % 2), 2, False, classify_settings(epochs=2, batch_size=3))
    assert [len(batch) for batch in seen] == [3, 2, 2] * 2
    orders = [(torch.cat(part)[:, 0, 0, 0] * 255).round().int().tolist() for part in (seen[:3], seen[3:])]
    assert [sorted(order) for order in orders] == [list(range(7))] * 2
    assert orders[0] != orders[1]


def test_with_binarize_every_mini_batch_is_binarized_anew_by_intensity(classify_settings, seen):
    images = torch.full((100, 1, 8, 8), 51, dtype=torch.uint8)
    train(as_split(images, torch.arange(100) % 10), 10, True, classify_settings(epochs=2, batch_size=100))
    first, second = seen
    assert set(torch.cat(seen).unique().tolist()) == {0, 1}
    # 12800 draws at one fifth: four standard errors.
    assert torch.cat(seen).mean().item() == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 12800) ** 0.5)
    assert not torch.equal(first.sum(0), second.sum(0))


def test_equal_seeds_make_equal_files_and_other_seeds_others(first, classify_settings, tmp_path, device):
    first = first.to(device)
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        save(train(first, 10, True, classify_settings(seed=seed)), tmp_path / name, PREPARED)
    one, two, three = ((tmp_path / name).read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three


@pytest.mark.parametrize(("images", "batch_size"), [(1, 1), (2, 1), (3, 2), (5, 8)])
def test_it_trains_on_batches_of_a_single_image(labeled, classify_settings, images, batch_size):
    split = labeled.first(images)
    classifier = train(split, 10, False, classify_settings(batch_size=batch_size))
    assert judge(classifier, split.images).probabilities.isfinite().all()


def test_weights_that_are_not_finite_are_reported_with_the_rate(first, classify_settings):
    with pytest.raises(WorkError, match=r"lower classify\.learning_rate \(now 1e\+30\)"):
        train(first, 10, False, classify_settings(epochs=3).model_copy(update={"learning_rate": 1e30}))


# --- Judging


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (1, 8, 8), (3, 5, 13), (1, 1, 1)])
def test_it_takes_images_of_any_size_and_number_of_channels(image_shape):
    classifier = Classifier(image_shape, classes=7).eval()
    judgment = judge(classifier, torch.zeros(3, *image_shape, dtype=torch.uint8))
    assert judgment.features.shape == (3, FEATURES)
    assert judgment.probabilities.shape == (3, 7)


def test_a_judgment_is_the_networks_whatever_the_chunks(saved, first, monkeypatch):
    classifier, _ = saved
    monkeypatch.setattr(module, "_CHUNK", 30)
    judgment = judge(classifier, first.images)
    images = first.images.float() / 255
    # Batches of another size may be summed up in another order: float32.
    torch.testing.assert_close(judgment.features, classifier.features(images))
    torch.testing.assert_close(judgment.probabilities, classifier(images).softmax(1))
    torch.testing.assert_close(judgment.probabilities.sum(1), torch.ones(100))


def test_accuracy_is_the_share_of_labels_that_are_most_probable():
    probabilities = torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.2, 0.8], [0.9, 0.1]])
    share, error = accuracy(Judgment(torch.zeros(4, 1), probabilities), torch.tensor([0, 1, 0, 0]))
    assert (share, error) == pytest.approx((0.75, (0.75 * 0.25 / 4) ** 0.5))


# --- The file


def test_a_loaded_classifier_judges_as_the_saved_one(saved, first):
    classifier, path = saved
    loaded_one = load(path, PREPARED)
    for loaded, original in zip(judge(loaded_one, first.images), judge(classifier, first.images), strict=True):
        assert torch.equal(loaded, original)


def test_a_loaded_classifier_is_fixed(saved):
    loaded = load(saved[1], PREPARED)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_equal_classifiers_make_equal_files(saved, tmp_path):
    save(load(saved[1], PREPARED), tmp_path / "again", PREPARED)
    assert (tmp_path / "again").read_bytes() == saved[1].read_bytes()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="absent: not found"):
        load(tmp_path / "absent", PREPARED)


@pytest.mark.parametrize("length", [0, 20, -10])
def test_a_damaged_file_is_named(saved, length):
    path = saved[1]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"classifier\.safetensors: damaged"):
        load(path, PREPARED)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights, metadata: metadata.pop("classes"),
        lambda weights, metadata: metadata.pop("image_shape"),
        lambda weights, metadata: metadata.update(classes=CLASSES[:3]),
        lambda weights, metadata: metadata.update(classes=None),
        lambda weights, metadata: metadata.update(image_shape=[1, 28, 28]),
        lambda weights, metadata: metadata.update(image_shape=3),
        lambda weights, metadata: metadata.update(image_shape=[8, 8]),
        lambda weights, metadata: weights.pop("head.bias"),
        lambda weights, metadata: weights.update(another=torch.zeros(2)),
    ],
)
def test_a_file_of_another_kind_is_no_classifier(saved, change):
    path = saved[1]
    weights, metadata = read_tensors(path)
    change(weights, metadata)
    write_tensors(path, weights, metadata)
    message = r"(?s)classifier\.safetensors: not a classifier that this code can read"
    with pytest.raises(InputError, match=message):
        load(path, PREPARED)
