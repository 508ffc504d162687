"""The report: complete, self-contained, readable for people, screen readers and phones."""

import base64
import hashlib
import io
import itertools
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from tests.browser import needs_chromium, visit
from vae.pictures import PICTURES
from vae.report.page import png_size, render
from vae.report.sections import SECTIONS

METRICS = {
    "test_nll": 84.7351,
    "test_nll_stderr": 0.2314,
    "test_elbo": -87.728,
    "active_units": 24,
    "reconstruction_mse": 0.0228,
    "precision": 0.812,
    "precision_real": 0.884,
    "quite_new": 0.125,
    "quite_new_stderr": 0.5,
}
BY_CLASS = [
    {"class": "0", "images": "980", "nll": "81.5", "error_rate": ""},
    {"class": "T-shirt & top", "images": "1135", "nll": "52.25", "error_rate": ""},
]
SETTINGS = {
    "train": {"adam_epsilon": 1e-8, "beta": 1.0, "keep_checkpoint": False, "widths": [512, 256], "step": "auto"}
}
PROVENANCE = {"Files (SHA-256)": {"data/model.safetensors": "0123456789abcdef" * 4}}
VOID = {"meta", "link", "img", "br"}


def png(width=12, height=8):
    file = io.BytesIO()
    Image.new("L", (width, height), 128).save(file, format="png")
    return file.getvalue()


def page(**changes):
    arguments = {
        "title": "A title",
        "caption": "A caption",
        "metrics": METRICS,
        "by_class": BY_CLASS,
        "pictures": {"samples": png(), "of_a_new_kind": png(30, 20)},
        "settings": SETTINGS,
        "provenance": PROVENANCE,
    }
    return render(**arguments | changes)


class Parsed(HTMLParser):
    """A page's elements with their attributes, and its text; fails on tags that are not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def all(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


# What it says


def test_a_metric_is_shown_with_its_error_its_unit_and_its_meaning():
    text = Parsed(page()).text
    meaning = "of test images, by importance sampling; lower is better"
    assert f"Negative log-likelihood {meaning} test_nll 84.74 ± 0.23 nats per image" in text
    assert "\N{MINUS SIGN}87.73 nats per image" in text
    assert re.search(r"precision 81\.2% of samples real images: 88\.4%", text)


def test_metrics_and_pictures_that_it_does_not_know_are_shown_too():
    parsed = Parsed(page())
    assert "Further results" in parsed.text
    assert "quite_new 0.125 ± 0.5" in parsed.text
    assert "of a new kind" in [image["alt"] for image in parsed.all("img")]


def test_what_a_run_does_not_have_is_left_out():
    text = Parsed(page(metrics={"test_nll": 84.7351}, pictures={"samples": png()})).text
    assert "Further results" not in text
    assert "Latent space" not in text
    assert "Wrong pixels" not in text, "a column that is empty for every class"


@pytest.mark.parametrize("relaxed", [True, False])
def test_relaxed_metrics_are_named_as_no_likelihood(relaxed):
    mark = "relaxed_" if relaxed else ""
    text = Parsed(
        page(metrics={f"{mark}test_nll": 84.7351, f"{mark}test_nll_stderr": 0.2314, "reconstruction_mse": 0.1})
    ).text
    assert f"{mark}test_nll 84.74 ± 0.23" in text
    assert ("Negative log-likelihood, relaxed: not a likelihood" in text) == relaxed
    assert ("not with any published log-likelihood" in text) == relaxed
    assert ("distortion in nats, relaxed: not a likelihood" in text) == relaxed


def test_settings_look_as_in_params_yaml():
    text = Parsed(page()).text
    for shown in ("adam_epsilon 1e-08", "beta 1 ", "keep_checkpoint false", "widths 512, 256", "step auto"):
        assert shown in text


def test_every_text_that_comes_in_is_escaped():
    nasty = '<b title="x">\'&amp;'
    html = page(
        title=nasty,
        caption=nasty,
        metrics={"reconstruction_mse": 1.0, nasty: nasty},
        by_class=[{"class": nasty, "images": "1"}],
        pictures={nasty: png()},
        settings={nasty: {nasty: nasty, "list": [nasty]}},
        provenance={nasty: {nasty: nasty}},
    )
    parsed = Parsed(html)
    assert parsed.all("b") == [{}, {}], "those around the two metrics' values"
    # Title and heading, caption, metric and value, class, setting's three and the list, provenance's three, picture.
    assert parsed.text.count(nasty) == 2 + 1 + 2 + 1 + 4 + 3 + 1
    assert nasty in [image["alt"] for image in parsed.all("img")]


def test_equal_results_give_equal_bytes_in_whatever_order_they_come():
    pictures = {"samples": png(), "elbo": png(), "x": png(), "a": png()}
    backwards = dict(reversed(METRICS.items())), dict(reversed(pictures.items()))
    assert page(pictures=pictures) == page(metrics=backwards[0], pictures=backwards[1])


def test_pictures_come_in_the_registrys_order_with_their_words():
    images = Parsed(page(pictures={picture.name: png() for picture in reversed(PICTURES)})).all("img")
    in_order = [picture.shows for section in SECTIONS for picture in PICTURES if picture.group == section]
    assert [image["alt"] for image in images] == in_order


# How it is made


def test_it_asks_for_nothing_and_runs_nothing():
    html = page()
    parsed = Parsed(html)
    ids = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
    addresses = [
        attributes[name] for _, attributes in parsed.elements for name in ("src", "href") if name in attributes
    ]
    links = [address for address in addresses if not address.startswith("data:")]
    assert links
    assert {link.removeprefix("#") for link in links} <= ids
    assert not parsed.all("script", "iframe", "object", "form", "audio", "video")
    assert not re.search(r"url\(|@import", html)
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]


def test_pictures_are_embedded_whole_with_their_size_and_a_description():
    images = Parsed(page()).all("img")
    assert len(images) == 2
    for image, (width, height) in zip(images, [(12, 8), (30, 20)], strict=True):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True) == png(width, height)
        assert (image["width"], image["height"]) == (str(width), str(height))
        assert image["alt"]


@pytest.mark.parametrize("damaged", [b"", b"\xff" * 100, png()[:20]])
def test_a_picture_that_is_not_a_png_is_refused(damaged):
    with pytest.raises(ValueError, match="not a PNG"):
        png_size(damaged)


def test_a_screen_reader_finds_its_way():
    parsed = Parsed(page())
    (root,) = parsed.all("html")
    assert root["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "a level is left out"
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [a[key] for _, a in parsed.elements for key in ("aria-labelledby", "aria-describedby") if key in a]
    assert set(named) <= set(ids)
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in parsed.all("th"))
    assert len(parsed.all("main")) == 1


SEEN = """[
    document.documentElement.scrollWidth - window.innerWidth,
    getComputedStyle(document.body).backgroundColor,
    getComputedStyle(document.body).color,
    [...document.images].map(image => [image.naturalWidth, image.clientWidth <= window.innerWidth]),
    [...document.querySelectorAll("td")].filter(cell => cell.scrollWidth > cell.clientWidth).length,
    Math.max(...[...document.querySelectorAll("td")].map(cell => cell.getBoundingClientRect().right)),
]"""
# A click leads to the picture in full size, whose own link leads back.
OPENED = """new Promise(done => {
    document.querySelector(".open").click();
    requestAnimationFrame(() => {
        const [image, figure] = [document.images[0], document.querySelector("figure:target")];
        const box = figure.getBoundingClientRect();
        figure.scrollLeft = 1e6;
        const found = [image.clientWidth, image.naturalWidth, box.width, window.innerWidth, figure.scrollLeft];
        document.querySelector("figure:target .close").click();
        requestAnimationFrame(() => done([...found, document.querySelector("figure:target") === null]));
    });
})"""


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (390, "light"), (1000, "light")])
def test_a_browser_without_network_shows_it_whole_at_any_width(tmp_path, width, scheme):
    long = {"a_setting_with_a_rather_long_name": "https://example.org/" + "x" * 90}
    html = page(
        settings={"train": long},
        pictures={"samples": png(1500, 400), "elbo": png(900, 600)},
        metrics={**METRICS, "a_metric_that_nobody_has_heard_of_before_" * 2: 1234567.125},
        by_class=[dict.fromkeys(("class", "images", "nll", "elbo", "reconstruction_nll", "mse", "ssim"), "1000")],
    )
    (tmp_path / "report.html").write_text(html)
    seen = visit((tmp_path / "report.html").as_uri(), tmp_path, SEEN, OPENED, width=width, scheme=scheme)
    requests = {request.split("#")[0] for request in seen.requests if not request.startswith("data:")}
    assert requests == {seen.requests[0]}
    assert seen.failures == []
    assert seen.complaints == []
    (overflow, background, color, pictures, cut, right), opened = seen.answers
    assert overflow <= 0
    assert cut == 0
    assert right <= width, "a table runs out of the window"
    assert pictures == [[900, True], [1500, True]]
    brightness = [sum(map(int, re.findall(r"\d+", text)[:3])) / 3 for text in (background, color)]
    assert brightness == sorted(brightness, reverse=scheme == "light"), "light on dark or dark on light"
    assert abs(brightness[0] - brightness[1]) > 150  # of 255: far above the contrast of 7 : 1
    shown, natural, box, window, scrolled, closed = opened
    assert shown == natural == 900
    assert box == window
    assert scrolled >= 900 - width, "its right edge can be reached"
    assert closed


# The stage


@pytest.mark.slow
def test_the_report_of_a_run_has_all_that_the_run_left(finished):
    html = (finished / "plots/report.html").read_text()
    parsed = Parsed(html)
    embedded = [base64.b64decode(image["src"].split(",")[1]) for image in parsed.all("img")]
    assert sorted(embedded) == sorted(path.read_bytes() for path in (finished / "plots/images").glob("*.png"))
    metrics = {}
    for path in (finished / "metrics").glob("*.json"):
        metrics |= json.loads(path.read_text())
    rows = [key for key in metrics if not key.endswith(("_stderr", "_real"))]
    assert [key for key in rows if key not in parsed.text.split()] == []
    assert "Further results" not in parsed.text, "a metric without a Measure or a picture without a Picture"
    for path in [*(finished / "data/prepared").glob("*"), finished / "data/model.safetensors"]:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in parsed.text
    assert str(finished) not in html
