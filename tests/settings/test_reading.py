import copy
import math
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import posix_only
from vae.errors import InputError
from vae.settings import Settings, load_settings, parse_settings, parse_yaml

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
VALUES = yaml.safe_load(PARAMS.read_text())
KEYS = [(section, key) for section, keys in VALUES.items() for key in keys]
SCHEMA = Settings.model_json_schema()
TYPES = {(section, key): SCHEMA["$defs"][section.capitalize()]["properties"][key]["type"] for section, key in KEYS}
FLOATS, INTEGERS, LISTS = (
    [place for place in KEYS if TYPES[place] == wanted] for wanted in ("number", "integer", "array")
)
WIDTHS = "a whole number at least 1 and at most 10000"
URLS = "a URL (http, https, file) or a path that starts with / or ."

# No database of failures, as every run should be like the first; no deadline, as the machine may be busy.
many = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 2**31, 2**32, 2**63, 1e308, 5e-324, -0.0]),
)
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.text(), st.binary(), st.dates(), st.sampled_from(["1e-05", "1e5", "", "nan"])
)
hashable = st.one_of(st.text(), st.integers(), st.none(), st.booleans(), st.floats(), st.binary(), st.dates())
garbage = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(hashable, inner), st.sets(hashable)), max_leaves=8
)
SECTIONS = "download, prepare, model, train, classify, evaluate, sample, embed, plot"


def changed(section, key, value):
    values = copy.deepcopy(VALUES)
    values[section][key] = value
    return values


def complaints(values):
    """The lines of the message that `values` are refused with; no line where they are valid."""
    try:
        assert isinstance(parse_settings(values, "some.yaml"), Settings)
    except InputError as error:
        lines = str(error).splitlines()
        assert lines
        if re.fullmatch(r"some\.yaml: and \d+ more", lines[-1]):
            assert len(lines) == 21
            lines.pop()
        for line in lines:
            assert re.fullmatch(r"some\.yaml: .*allowed: .+", line), line
            assert len(line) < 600
        return lines
    return []


def refusal(values):
    with pytest.raises(InputError) as caught:
        parse_settings(values, "some.yaml")
    return str(caught.value)


def refusal_of_text(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load_settings(path)
    message = str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in message.splitlines())
    return message.replace(f"{path}: ", "")


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


# Messages

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


@pytest.mark.parametrize(("section", "key"), LISTS)
def test_a_wrong_item_of_a_list_is_reported_with_its_place(section, key):
    message = refusal(changed(section, key, [*VALUES[section][key], True]))
    assert message.startswith(f"some.yaml: {section}.{key}.{len(VALUES[section][key])}: got True, allowed: a ")


def test_a_section_that_is_not_a_mapping_is_reported_with_its_keys():
    assert refusal({**VALUES, "embed": None}) == (
        "some.yaml: embed: got None, allowed: a section with the keys method, images, perplexity, seed"
    )


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_missing_key_is_reported_with_what_is_allowed(section, key):
    values = copy.deepcopy(VALUES)
    del values[section][key]
    assert refusal(values).startswith(f"some.yaml: {section}.{key}: missing, allowed: ")


@pytest.mark.parametrize("section", VALUES)
def test_a_missing_section_is_reported_with_its_keys(section):
    values = {name: keys for name, keys in VALUES.items() if name != section}
    keys = ", ".join(VALUES[section])
    assert refusal(values) == f"some.yaml: {section}: missing, allowed: a section with the keys {keys}"


@pytest.mark.parametrize("document", [None, 3, "text", [], [VALUES], True])
def test_a_document_without_sections_is_reported_with_them(document):
    assert re.fullmatch(
        rf"some.yaml: got .+, allowed: the sections {SECTIONS}",
        refusal(document),
    )


def test_an_unknown_key_is_reported_with_its_value_and_the_known_keys():
    assert refusal(changed("plot", "colour", "red")) == (
        "some.yaml: plot.colour: unknown key, got 'red'; allowed: dpi, samples, seed"
    )


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_near_miss_of_a_key_gets_a_suggestion(section, key):
    values = copy.deepcopy(VALUES)
    values[section][f"{key}x"] = values[section].pop(key)
    assert f"some.yaml: {section}.{key}x: unknown key, " in refusal(values)
    assert f"; did you mean {key}? allowed: {', '.join(VALUES[section])}" in refusal(values)


def test_a_near_miss_of_a_section_gets_a_suggestion():
    values = {"trian" if name == "train" else name: keys for name, keys in VALUES.items()}
    assert "some.yaml: trian: unknown key, got {" in refusal(values)
    assert f"; did you mean train? allowed: {SECTIONS}" in refusal(values)


def test_several_mistakes_are_reported_at_once_in_the_files_order():
    values = changed("train", "epochs", 0)
    values["train"]["device"] = "gpu"
    values["download"]["dataset"] = "cifar"
    values["plot"]["colour"] = "red"
    del values["embed"]["seed"]
    places = [line.split(": ")[1] for line in refusal(values).splitlines()]
    assert places == ["download.dataset", "train.device", "train.epochs", "embed.seed", "plot.colour"]


@pytest.mark.parametrize("key", ["seed", "learning_rate", "keep_checkpoint", "device", "typo"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("a" * 10**6, id="text"),
        pytest.param(["a" * 10**6], id="list with text"),
        pytest.param({"a" * 10**6: 1}, id="mapping with text"),
        pytest.param(list(range(10**5)), id="long list"),
        pytest.param([["a" * 50] * 50] * 50, id="list of lists with texts"),
        pytest.param(b"a" * 10**6, id="bytes"),
        pytest.param(10**4000, id="4001 digits"),
        pytest.param(16**5000, id="more digits than Python prints"),
    ],
)
def test_a_huge_value_is_cut(key, value):
    [line] = complaints(changed("train", key, value))
    shown = re.fullmatch(rf"some\.yaml: train\.{key}: .*got (.+?)[,;] allowed: [^\[\]{{}}]+", line)[1]
    assert len(shown) <= 60


def test_a_huge_or_odd_key_is_cut_and_quoted():
    long, lines, surrogate = refusal({**VALUES, "a" * 10**6: 1}), refusal({**VALUES, "a\nb": 1}), "\ud800"
    assert len(long) < 300
    assert lines.startswith(r"some.yaml: 'a\nb': unknown key, got 1; ")
    assert refusal({**VALUES, surrogate: 1}).startswith(r"some.yaml: '\ud800': unknown key, ")
    assert refusal(changed("train", surrogate, 1)).startswith(r"some.yaml: train.'\ud800': unknown key, ")


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


@pytest.mark.fault
def test_thousands_of_mistakes_are_a_short_message():
    lines = refusal(VALUES | {f"key{number}": number for number in range(5000)}).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "some.yaml: and 4980 more"


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


# Whatever stands in the file: valid settings or an InputError


@given(place=st.sampled_from(KEYS), value=garbage)
@example(place=("download", "mirrors"), value=["http://\ud800"])
@many
def test_any_value_anywhere_is_taken_unchanged_or_refused_by_its_key(place, value):
    section, key = place
    values = changed(section, key, value)
    lines = complaints(values)
    assert all(line.startswith(f"some.yaml: {section}.{key}") for line in lines)
    if not lines:
        taken = getattr(getattr(parse_settings(values, "some.yaml"), section), key)
        assert taken == value or (place in FLOATS and taken == float(value))
        assert isinstance(taken, bool) == isinstance(value, bool)


@given(section=st.sampled_from(list(VALUES)), key=hashable, value=garbage)
@many
def test_any_unknown_key_is_refused(section, key, value):
    if key not in VALUES[section]:
        assert complaints(changed(section, key, value))
        assert complaints({**VALUES, f"{key}": value})


@given(sections=st.dictionaries(st.sampled_from(list(VALUES)), garbage, min_size=1))
@many
def test_anything_else_in_place_of_a_section_is_refused(sections):
    assert complaints({**VALUES, **sections})


@given(values=garbage)
@many
def test_any_document_is_refused(values):
    assert complaints(values)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("settings") / "params.yaml"


plain_words = [
    *"1[]{}|>~'=@`\\\t\r\n\x85\"",
    "- ",
    ": ",
    "  ",
    "? ",
    "# ",
    "&a",
    "*a",
    "<<",
    "---",
    "...",
    "%YAML",
    "train",
]
typed_words = ["!!int ", "!!bool ", "!!float ", "!!timestamp ", "!!set ", "!!omap ", "!!binary ", "!x ", "seed"]
value_words = ["2020-13-45", "1:30", "1e-05", ".nan", ".inf", "0x", "0b_", "epochs"]
yaml_words = st.sampled_from([*plain_words, *typed_words, *value_words])


@given(data=st.one_of(st.text().map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary()))
@example(data=b"")
@example(data=b"[" * 10_000)
@example(data=b"1:" + b"00:" * 300 + b"00.0")
@many
def test_any_bytes_are_refused(scratch, data):
    scratch.write_bytes(data)
    with pytest.raises(InputError, match=re.escape(f"{scratch}: ")):
        load_settings(scratch)


@given(words=st.lists(yaml_words, max_size=12), place=st.integers(0, len(PARAMS.read_bytes())))
@many
def test_any_yaml_inserted_anywhere_is_valid_or_refused(scratch, words, place):
    text = PARAMS.read_text()
    scratch.write_text(text[:place] + "".join(words) + text[place:], encoding="utf-8")
    try:
        assert isinstance(load_settings(scratch), Settings)
    except InputError as error:
        assert str(error).startswith(f"{scratch}: ")
        assert all(len(line) < 1000 for line in str(error).splitlines())


# The file as text


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        load_settings(tmp_path / "params.yaml")
    assert str(caught.value) == f"{tmp_path}/params.yaml: not found"


def test_a_folder_is_no_settings_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_settings(tmp_path)


@pytest.mark.fault
def test_a_file_of_fifty_megabytes_is_refused_without_being_read(tmp_path):
    with (tmp_path / "params.yaml").open("wb") as file:
        file.truncate(50_000_000)
    started = time.monotonic()
    with pytest.raises(InputError, match="too large, allowed: at most 100000 bytes"):
        load_settings(tmp_path / "params.yaml")
    assert time.monotonic() - started < 5, "reading it takes a minute"


@posix_only
def test_a_pipe_is_no_settings_file(tmp_path):
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(InputError, match="not a regular file"):
        load_settings(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train:\n  epochs: 3\n seed: 1", "line 3, column 2"),
        ("train:\n\tepochs: 3", "line 2, column 1"),
        ("train: [1", "line 1, column 10"),
        ("train: *a", "undefined alias 'a'"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: \x00", "special characters are not allowed"),
        (b"a: \xff", "invalid start byte"),
        ("a: !!python/object/apply:os.system [exit]", "could not determine a constructor"),
        ("a: !!bool x", "KeyError"),
        ("a: !!int ''", "ValueError"),
        ("a: !!timestamp x", "AttributeError"),
        ("a: 2020-13-45", "ValueError: month must be in 1..12"),
        ("? [a]\n: 1", "found unhashable key"),
        ("[" * 10_000, "RecursionError"),
        (f"a: !<{'x' * 10**4}> 1", "could not determine a constructor"),
    ],
)
def test_invalid_yaml_is_reported_with_the_place_or_the_reason(tmp_path, text, reason):
    message = refusal_of_text(tmp_path, text)
    assert message.startswith("not valid YAML: ")
    assert reason in message
    assert "\n" not in message
    assert len(message) < 600


def line_of(pattern, text):
    return next(number for number, line in enumerate(text.splitlines(), 1) if re.match(pattern, line))


def test_a_repeated_key_is_refused(tmp_path):
    text = PARAMS.read_text().replace("  epochs: ", "  epochs: 3\n  epochs: ", 1)
    first = line_of("  epochs", text)
    assert refusal_of_text(tmp_path, text) == f"train.epochs: repeated on lines {first} and {first + 1}, allowed: once"


def test_a_key_repeated_in_another_spelling_is_refused(tmp_path):
    text = PARAMS.read_text().replace("  epochs: ", "  'epochs': 3\n  epochs: ", 1)
    assert "train.epochs: repeated on lines" in refusal_of_text(tmp_path, text)


def test_a_repeated_section_is_refused(tmp_path):
    text = PARAMS.read_text() + "\ntrain:\n  epochs: 3\n"
    lines = f"{line_of('train', text)} and {len(text.splitlines()) - 1}"
    assert refusal_of_text(tmp_path, text) == f"train: repeated on lines {lines}, allowed: once"


def test_all_repeated_keys_are_reported_at_once(tmp_path):
    text = PARAMS.read_text() + "  seed: 1\n  seed: 2\n\ntrain:\n  epochs: 1\n  epochs: 2\n"
    places = [line.split(": ")[0] for line in refusal_of_text(tmp_path, text).splitlines()]
    assert sorted(places) == ["plot.seed", "train", "train.epochs"]


def test_a_key_that_replaces_a_merged_one_is_not_repeated(tmp_path):
    merged = "embed:\n  <<: {seed: 3, images: 20}\n  images: 30\n  method: pca\n  perplexity: 5\n\n"
    text = re.sub(r"(?ms)^embed:\n.*?\n\n", merged, PARAMS.read_text())
    (tmp_path / "params.yaml").write_text(text)
    embed = load_settings(tmp_path / "params.yaml").embed
    assert (embed.seed, embed.images) == (3, 30)


def test_an_error_in_yaml_shows_no_control_characters():
    with pytest.raises(InputError, match="not valid YAML") as caught:
        parse_yaml("train:\n  epochs:\ufeff 3\n  seed: 0\n", "params.yaml")
    assert str(caught.value).isprintable()
