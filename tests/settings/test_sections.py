"""What each key of params.yaml holds: its type, its bounds, and how it is written."""

import math
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.settings.conftest import FLOATS, INTEGERS, KEYS, PARAMS, SCHEMA, VALUES, changed, complaints, many, refusal
from vae.settings import load_settings, parse_settings

WIDTHS = "a whole number at least 1 and at most 10000"
URLS = "a URL (http, https, file) or a path that starts with / or ."


# The committed file


def test_the_committed_file_is_valid_and_taken_over_unchanged():
    assert load_settings(PARAMS).model_dump() == VALUES


def test_every_key_of_the_committed_file_says_what_it_means():
    lines = PARAMS.read_text().splitlines()
    uncommented = [line for line in lines if re.match(r" +\w+:", line) and not re.search(r"\S +# \S+", line)]
    assert not uncommented
    assert sum(bool(re.match(r" +\w+:", line)) for line in lines) == len(KEYS)


def test_the_committed_file_is_in_block_style_with_plain_decimals():
    tree = yaml.compose(PARAMS.read_text())
    nodes, flow = [tree], []
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.CollectionNode):
            flow += [node.start_mark.line + 1] if node.flow_style else []
            nodes += [part for item in node.value for part in (item if isinstance(item, tuple) else [item])]
        elif node.tag.endswith((":int", ":float")):
            assert re.fullmatch(r"-?\d+(\.\d+)?", node.value), f"line {node.start_mark.line + 1}"
    assert not flow, f"flow style in the lines {flow}"


def test_settings_are_read_only():
    loaded = load_settings(PARAMS)
    with pytest.raises(ValueError, match="frozen"):
        loaded.train.epochs = 3


# Numbers


def test_the_keys_that_hold_real_numbers_are_known_here():
    assert FLOATS == [
        ("model", "dropout"),
        ("train", "learning_rate"),
        ("train", "adam_beta1"),
        ("train", "adam_epsilon"),
        ("train", "weight_decay"),
        ("train", "beta"),
        ("train", "free_bits"),
        ("train", "gradient_clip"),
        ("train", "ema_decay"),
        ("classify", "learning_rate"),
        ("embed", "perplexity"),
    ]


@pytest.mark.parametrize(("section", "key"), FLOATS)
@pytest.mark.parametrize("text", ["1e-05", "3E-4", "1.e-3", ".5e-3", ".5e0", "+2.5e-1", "0.25", "2.5e-01"])
def test_numbers_as_dvc_and_people_write_them_are_numbers(tmp_path, section, key, text):
    written = re.sub(rf"(?m)^(  {key}:) \S+", rf"\1 {text}", PARAMS.read_text())
    (tmp_path / "params.yaml").write_text(written)
    value = getattr(getattr(load_settings(tmp_path / "params.yaml"), section), key)
    assert type(value) is float
    assert value == float(text)


@pytest.mark.parametrize(("section", "key"), FLOATS)
@pytest.mark.parametrize(
    "value", ["0.1", "1e", "e5", "1e5 ", "1 e5", "0x1p-3", "nan", "inf", "1_0e-2", "\uff11e-1", "1e400"]
)
def test_other_strings_are_no_numbers(section, key, value):
    assert complaints(changed(section, key, value))


@pytest.mark.parametrize(("section", "key"), FLOATS)
@given(value=st.floats(min_value=1e-12, max_value=0.999))
@many
def test_a_float_survives_being_written_in_exponent_form(section, key, value):
    loaded = parse_settings(changed(section, key, f"{value:.17e}"), "some.yaml")
    assert getattr(getattr(loaded, section), key) == value


@pytest.mark.parametrize(("section", "key"), INTEGERS)
@pytest.mark.parametrize("value", ["1e5", "60", 60.0, True, None, [60], {"a": 60}, math.nan, math.inf])
def test_only_whole_numbers_are_whole_numbers(section, key, value):
    [line] = complaints(changed(section, key, value))
    assert line.startswith(f"some.yaml: {section}.{key}: got {value!r}, allowed: a whole number")


# Other values

DESCRIPTIONS = [
    ("download", "dataset", "minst", "'minst'", "one of mnist, fashion_mnist, kmnist, digits"),
    ("download", "mirrors", "http://a", "'http://a'", f"a list of at most 100 items, each item {URLS}"),
    ("prepare", "validation_size", -1, "-1", "a whole number at least 0 and at most 100000"),
    ("prepare", "seed", 2**32, "4294967296", "a whole number at least 0 and less than 4294967296"),
    ("model", "latent_dim", 0, "0", WIDTHS),
    ("model", "encoder_widths", 512, "512", f"a list of at most 100 items, each item {WIDTHS}"),
    ("train", "device", None, "None", "one of auto, cpu, cuda"),
    ("train", "learning_rate", 0, "0", "a number greater than 0 and at most 100"),
    ("train", "learning_rate", math.inf, "inf", "a finite number greater than 0 and at most 100"),
    ("train", "gradient_clip", -0.5, "-0.5", "a number at least 0 and at most 1000000000"),
    ("train", "gradient_clip", math.nan, "nan", "a finite number at least 0 and at most 1000000000"),
    ("train", "ema_decay", 1, "1", "a number at least 0 and less than 1"),
    ("train", "ema_decay", math.nan, "nan", "a number at least 0 and less than 1"),
    ("train", "keep_checkpoint", 1, "1", "true or false"),
    ("train", "keep_checkpoint", "yes", "'yes'", "true or false"),
    ("train", "tensorboard", None, "None", "the path of a folder, or '' (off)"),
    ("train", "tensorboard", "a\0b", "'a\\x00b'", "the path of a folder, or '' (off)"),
    ("embed", "images", 9, "9", "a whole number at least 10 and at most 100000"),
    ("plot", "dpi", 601, "601", "a whole number at least 50 and at most 600"),
    ("plot", "dpi", 49, "49", "a whole number at least 50 and at most 600"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "value", "shown", "allowed"), DESCRIPTIONS)
def test_a_wrong_value_is_reported_with_what_is_allowed(section, key, value, shown, allowed):
    assert refusal(changed(section, key, value)) == f"some.yaml: {section}.{key}: got {shown}, allowed: {allowed}"


@pytest.mark.parametrize("mirror", ["https://a/b/", "http://a", "file:///a", "/a", "./a", "../a"])
def test_mirrors_are_urls_and_paths(mirror):
    assert parse_settings(changed("download", "mirrors", [mirror]), "some.yaml").download.mirrors == [mirror]


@pytest.mark.parametrize("mirror", ["ftp://a", "a/b", "", " http://a", "~/a", 3, None, ["/a"]])
def test_nothing_else_is_a_mirror(mirror):
    message = refusal(changed("download", "mirrors", ["/a", mirror]))
    assert message == f"some.yaml: download.mirrors.1: got {mirror!r}, allowed: {URLS}"


def test_every_number_has_an_upper_bound():
    numbers = {place: SCHEMA["$defs"][place[0].capitalize()]["properties"][place[1]] for place in FLOATS + INTEGERS}
    assert not [place for place, schema in numbers.items() if not {"maximum", "exclusiveMaximum"} & schema.keys()]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "particles", 10**6),
        ("train", "epochs", 10**12),
        ("train", "epochs", 10**23),
        ("train", "batch_size", 10**9),
        ("train", "learning_rate", 1e38),
        ("train", "free_bits", 1e308),
        ("train", "beta", 1e308),
        ("train", "snapshot_epochs", [10**23]),
        ("model", "latent_dim", 10**6),
        ("model", "encoder_widths", [1] * 1000),
        ("plot", "samples", 10**6),
        ("embed", "perplexity", 1e308),
    ],
)
def test_an_extreme_value_is_refused_with_its_bound(section, key, value):
    assert re.search(
        rf"some\.yaml: {section}\.{key}.*: got .*, allowed: .*at most \d+", refusal(changed(section, key, value))
    )


SECRETS = [
    "http://user:p@hunter2@host/mnist",
    "https://user:hunter2/x@host/mnist/",
    "https://user:my hunter2@host/mnist/",
    "https://host/mnist/?token=hunter2",
    "https://host/mnist/?hunter2",
    "https://host/mnist/?token=a@hunter2",
    "file://user:hunter2@host/mnist",
]


@pytest.mark.fault
@pytest.mark.parametrize("mirror", SECRETS)
def test_a_mirror_with_a_secret_is_refused_and_not_shown(mirror):
    message = refusal(changed("download", "mirrors", [mirror]))
    assert message.startswith("some.yaml: download.mirrors.0: got '")
    assert message.endswith("pass such a mirror through the environment")
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("download", "mirrors", "http://user:hunter2@host/"),
        ("download", "mirrors", [{"http://user:hunter2@host/": 1}]),
        ("download", "mirrors", ["ftp://user:hunter2@host/" + "a" * 100]),
        ("download", "dataset", "http://host/?token=hunter2"),
        ("download", "mirror", "http://user:hunter2@host/"),
        ("download", "http://user:hunter2@host/", 1),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(section, key, value):
    assert "hunter2" not in refusal(changed(section, key, value))
