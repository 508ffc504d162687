"""params.yaml as a document: what is no settings file, and the messages about what it holds."""

import copy
import os
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.conftest import posix_only
from tests.settings.conftest import FLOATS, KEYS, LISTS, PARAMS, VALUES, changed, complaints, many, refusal
from vae.errors import InputError
from vae.settings import Settings, load_settings, parse_settings, parse_yaml

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


def refusal_of_text(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load_settings(path)
    message = str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in message.splitlines())
    return message.replace(f"{path}: ", "")


# Messages


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


@pytest.mark.fault
def test_thousands_of_mistakes_are_a_short_message():
    lines = refusal(VALUES | {f"key{number}": number for number in range(5000)}).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "some.yaml: and 4980 more"


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
