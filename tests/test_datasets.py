import gzip
import hashlib
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torchvision
from sklearn.datasets import load_digits

from vae import datasets
from vae.errors import InputError, WorkError

NAMES = [
    "train-labels-idx1-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
    "train-images-idx3-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
]
CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
PUBLISHED = {name: dict(getattr(torchvision.datasets, CLASSES[name]).resources) for name in CLASSES}


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def made_up_files(seed=0):
    rng = np.random.default_rng(seed)
    arrays = [
        rng.integers(10, size=7, dtype=np.uint8),
        rng.integers(10, size=5, dtype=np.uint8),
        rng.integers(256, size=(7, 3, 2), dtype=np.uint8),
        rng.integers(256, size=(5, 3, 2), dtype=np.uint8),
    ]
    files = {name: gzip.compress(idx(array), mtime=0) for name, array in zip(NAMES, arrays, strict=True)}
    return arrays, files


ARRAYS, FILES = made_up_files()


def publish(monkeypatch, name, files, mirrors):
    """Let one of torchvision's data sets be that of these files, listed in torchvision's order."""
    resources = [(file, hashlib.md5(files[file]).hexdigest()) for file in PUBLISHED[name]]
    monkeypatch.setattr(getattr(torchvision.datasets, CLASSES[name]), "resources", resources)
    monkeypatch.setattr(getattr(torchvision.datasets, CLASSES[name]), "mirrors", mirrors)


class Site(ThreadingHTTPServer):
    """A web server: each folder is a mirror of FILES, which gives the answers in `faults[folder]` first."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests, self.closing = FILES, {}, [], threading.Event()

    def url(self, mirror):
        return f"http://127.0.0.1:{self.server_port}/{mirror}/"

    def asked(self, mirror):
        return [path.split("/")[2] for path in self.requests if path.split("/")[1] == mirror]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        _, mirror, file = self.path.split("/")
        faults = self.server.faults.get(mirror, [])
        answer = faults.pop(0) if faults else send
        answer(self, self.server.files[file])

    def log_message(self, *_):
        pass


def send(handler, content, status=200, length=None, **headers):
    handler.send_response(status)
    handler.send_header("Content-Length", len(content) if length is None else length)
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def status(code, **headers):
    return lambda handler, _: send(handler, b"", code, **headers)


def hang_up(handler, _):
    pass


def truncate(handler, content):
    send(handler, content[:-9], length=len(content))


def truncate_chunks(handler, content):
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
    handler.close_connection = True


def stay_silent(handler, _):
    handler.server.closing.wait(10)


def stall(handler, content):
    truncate(handler, content)
    handler.wfile.flush()
    handler.server.closing.wait(10)


def corrupt(handler, content):
    send(handler, content[:-1] + b"?")


def html(handler, _):
    send(handler, b"<html>Sign in first</html>", Content_Type="text/html; charset=utf-8")


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that the download would have slept."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(datasets, "TIMEOUT", (5, 0.05))


@pytest.fixture(autouse=True)
def made_up_mnist(monkeypatch):
    publish(monkeypatch, "mnist", FILES, mirrors=[])


@pytest.fixture
def site():
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def write_files(folder, files=FILES):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_files_arrive_as_published(site, tmp_path, capsys):
    names = datasets.fetch("mnist", [site.url("a")], tmp_path / "raw")
    assert names == list(PUBLISHED["mnist"])
    assert contents(tmp_path / "raw") == FILES
    assert capsys.readouterr().err == ""  # no progress bar without a terminal


def test_labels_come_first(site, tmp_path):
    datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert site.asked("a") == NAMES


@pytest.mark.parametrize("name", CLASSES)
def test_each_data_set_has_its_own_files_and_mirrors(name, monkeypatch, site, tmp_path):
    assert sorted(PUBLISHED[name]) == sorted(NAMES)
    _, site.files = made_up_files(seed=1)
    publish(monkeypatch, name, site.files, mirrors=[site.url("published")])
    datasets.fetch(name, [], tmp_path)
    assert contents(tmp_path) == site.files


LASTING = {
    "403": (status(403), "403 Forbidden"),
    "404": (status(404), "404 Not Found"),
    "410": (status(410), "410 Gone"),
    "304": (status(304), "304 Not Modified"),
    "checksum": (corrupt, "wrong checksum"),
    "html": (html, "an HTML page"),
    "redirects": (lambda handler, _: send(handler, b"", 302, Location=handler.path), "30 redirects"),
}
PASSING = {
    "429": (status(429), "429 Too Many Requests"),
    "500": (status(500), "500 Internal Server Error"),
    "503": (status(503), "503 Service Unavailable"),
    "hang_up": (hang_up, "closed connection without response"),
    "truncated": (truncate, "9 more expected"),
    "chunks": (truncate_chunks, "IncompleteRead"),
    "silent": (stay_silent, "timed out"),
    "stalled": (stall, "timed out"),
}


@pytest.mark.parametrize(("fault", "reason"), PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(fault, reason, site, tmp_path, waits, caplog):
    site.faults["a"] = [fault, fault]
    datasets.fetch("mnist", [site.url("a"), site.url("b")], tmp_path)
    assert contents(tmp_path) == FILES
    assert site.asked("a") == [NAMES[0], NAMES[0], *NAMES] and site.asked("b") == []
    assert 1 <= waits[0] <= 2 <= waits[1] <= 3 and len(waits) == 2
    assert reason in caplog.messages[0] and "trying again in" in caplog.messages[0]


def test_waits_have_jitter(site, tmp_path, waits):
    site.faults["a"] = [status(503)] * 2
    datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert all(not seconds.is_integer() for seconds in waits)


@pytest.mark.parametrize(("fault", "reason"), PASSING.values(), ids=PASSING)
def test_what_does_not_pass_costs_a_bounded_number_of_attempts(fault, reason, site, tmp_path):
    site.faults["a"] = [fault] * 99
    with pytest.raises(WorkError, match=reason):
        datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert len(site.requests) == datasets.ATTEMPTS
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("fault", "reason"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_not_tried_again(fault, reason, site, tmp_path, waits):
    site.faults["a"] = [fault] * 99
    with pytest.raises(WorkError, match=reason):
        datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert len(set(site.requests)) == 1 and waits == []
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("fault", "reason"), [*LASTING.values(), *PASSING.values()], ids=[*LASTING, *PASSING])
def test_the_next_mirror_takes_over_for_the_rest_of_the_run(fault, reason, site, tmp_path):
    site.faults["a"] = [fault] * 99
    datasets.fetch("mnist", [site.url("a"), site.url("b")], tmp_path)
    assert contents(tmp_path) == FILES
    assert len(set(site.asked("a"))) == 1
    assert site.asked("b") == NAMES


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        ("http://127.0.0.1:{closed}/", "Connection refused"),
        ("https://127.0.0.1:{open}/", "SSL"),
        ("ftp://127.0.0.1/", "No connection adapters"),
        ("http:///mnist", "No host supplied"),
        ("{tmp}/nowhere", "No such file"),
        ("~no-such-user/mnist", "home directory"),
        ("file://[nowhere/", "Invalid IPv6 URL"),
    ],
)
def test_a_mirror_that_cannot_be_reached_is_not_tried_again(mirror, reason, site, tmp_path, waits):
    with Site() as closed:
        pass
    mirror = mirror.format(closed=closed.server_port, open=site.server_port, tmp=tmp_path)
    datasets.fetch("mnist", [mirror, site.url("a")], tmp_path / "raw")
    assert contents(tmp_path / "raw") == FILES and waits == []
    with pytest.raises(WorkError, match=reason):
        datasets.fetch("mnist", [mirror], tmp_path / "other")


def test_an_unknown_host_is_not_tried_again(monkeypatch, tmp_path, waits):
    def fail(*_, **__):
        raise datasets.socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(datasets.socket, "getaddrinfo", fail)
    with pytest.raises(WorkError, match="Name or service not known"):
        datasets.fetch("mnist", ["http://mirror.invalid/"], tmp_path)
    assert waits == []


def test_a_proxy_that_refuses_is_not_tried_again(monkeypatch, site, tmp_path, waits):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{site.server_port}")
    with pytest.raises(WorkError, match="Tunnel connection failed"):
        datasets.fetch("mnist", ["https://mirror.invalid/"], tmp_path)
    assert waits == []


def test_redirects_are_followed(site, tmp_path):
    site.faults["a"] = [status(302, Location=f"/b/{NAMES[0]}"), status(301, Location=f"/b/{NAMES[1]}")]
    datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert contents(tmp_path) == FILES
    assert len(site.asked("b")) == 2


def test_files_declared_as_gzip_encoded_stay_packed(site, tmp_path):
    site.faults["a"] = [lambda handler, content: send(handler, content, Content_Encoding="gzip")] * 4
    datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert contents(tmp_path) == FILES


def test_mirrors_are_asked_in_order_and_once(monkeypatch, site, tmp_path):
    publish(monkeypatch, "mnist", FILES, mirrors=[site.url("published"), site.url("setting")])
    monkeypatch.setenv("MNIST_MIRROR", site.url("environment").rstrip("/"))
    site.faults = {name: [status(404)] * 9 for name in ("environment", "setting", "published")}
    with pytest.raises(WorkError):
        datasets.fetch("mnist", [site.url("setting"), site.url("environment"), site.url("setting")], tmp_path)
    assert [path.split("/")[1] for path in site.requests] == ["environment", "setting", "published"]


def test_mnist_mirror_may_be_a_url_without_a_slash_at_its_end(monkeypatch, site, tmp_path):
    monkeypatch.setenv("MNIST_MIRROR", site.url("environment").rstrip("/"))
    datasets.fetch("mnist", [site.url("setting")], tmp_path)
    assert contents(tmp_path) == FILES
    assert len(site.asked("environment")) == 4 and site.asked("setting") == []


@pytest.mark.parametrize("form", ["{path}", "{path}/", "{uri}", "{uri}/", "~/a mirror", "a mirror"])
def test_mnist_mirror_may_be_a_folder(form, monkeypatch, site, tmp_path):
    folder = write_files(tmp_path / "a mirror")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_MIRROR", form.format(path=folder, uri=folder.as_uri()))
    datasets.fetch("mnist", [site.url("a")], "raw")
    assert contents(tmp_path / "raw") == FILES and contents(folder) == FILES
    assert site.requests == []


def test_a_folder_with_wrong_files_is_left_for_the_next_mirror(monkeypatch, site, tmp_path):
    _, others = made_up_files(seed=1)
    monkeypatch.setenv("MNIST_MIRROR", str(write_files(tmp_path / "wrong", others)))
    datasets.fetch("mnist", [site.url("a")], tmp_path / "raw")
    assert contents(tmp_path / "raw") == FILES


def test_right_files_are_kept_and_not_fetched_again(site, tmp_path):
    kept = NAMES[2]
    write_files(tmp_path, {kept: FILES[kept]})
    before = (tmp_path / kept).stat()
    datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert kept not in site.asked("a") and contents(tmp_path) == FILES
    datasets.fetch("mnist", [], tmp_path)
    after = (tmp_path / kept).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_wrong_files_are_replaced(site, tmp_path):
    write_files(tmp_path, dict.fromkeys(NAMES, b"half a file"))
    datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("fault", [status(404), corrupt, truncate])
def test_a_failed_download_keeps_right_files_and_leaves_no_wrong_one(fault, site, tmp_path):
    write_files(tmp_path, {NAMES[0]: b"half a file", NAMES[1]: FILES[NAMES[1]]})
    site.faults["a"] = [fault] * 99
    with pytest.raises(WorkError):
        datasets.fetch("mnist", [site.url("a")], tmp_path)
    assert contents(tmp_path) == {NAMES[1]: FILES[NAMES[1]]}


def test_the_message_lists_each_mirror_with_its_reason_and_the_ways_out(monkeypatch, site, tmp_path):
    monkeypatch.setenv("MNIST_MIRROR", str(tmp_path / "nowhere"))
    site.faults = {"a": [status(404)], "b": [corrupt], "c": [send, send, status(503), status(503), status(503)]}
    with pytest.raises(WorkError) as caught:
        datasets.fetch("mnist", [site.url(mirror) for mirror in "abc"], tmp_path / "raw")
    first, *reasons, last = str(caught.value).splitlines()
    labels, images = NAMES[0], NAMES[2]
    assert images in first
    assert [reason.strip().split(": ", 1)[0] for reason in reasons] == [
        str(tmp_path / "nowhere" / labels),
        site.url("a") + labels,
        site.url("b") + labels,
        site.url("c") + images,
    ]
    for reason, text in zip(reasons, ["No such file", "404 Not Found", "wrong checksum", "503 Service"], strict=True):
        assert text in reason
    assert "set MNIST_MIRROR to a URL or a folder that holds" in last and "`make demo`" in last


def test_passwords_are_not_shown(site, tmp_path, caplog):
    site.faults["a"] = [status(503)] * 3
    mirrors = [site.url("a").replace("//", "//reader:secret@"), "ftp://reader:secret@127.0.0.1/"]
    with pytest.raises(WorkError) as caught:
        datasets.fetch("mnist", mirrors, tmp_path)
    assert "://***@127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value) + caplog.text


def test_a_folder_that_cannot_be_written_is_not_blamed_on_the_mirrors(site, tmp_path):
    (tmp_path / "raw").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="raw"):
        datasets.fetch("mnist", [site.url("a"), site.url("b")], tmp_path / "raw")


def test_read_gives_images_and_labels(tmp_path):
    data = datasets.read("mnist", write_files(tmp_path))
    assert list(data) == ["train", "test"]
    found = [data["train"][1], data["test"][1], data["train"][0], data["test"][0]]
    for array, expected in zip(found, ARRAYS, strict=True):
        assert array.dtype == np.uint8 and array.flags.writeable
        np.testing.assert_array_equal(array, expected)


WHOLE = idx(ARRAYS[2])
DAMAGE = {
    "no gzip": (b"plain", "Not a gzipped file"),
    "cut gzip": (FILES[NAMES[2]][:-12], "ended before"),
    "flipped bits": (FILES[NAMES[2]][:20] + b"\xff\xff\xff\xff" + FILES[NAMES[2]][24:], ""),
    "empty": (b"", "no IDX file"),
    "labels": (FILES[NAMES[0]], "no IDX file of unsigned bytes in 3 dimensions"),
    "signed bytes": (gzip.compress(b"\0\0\x09" + WHOLE[3:]), "no IDX file"),
    "cut header": (gzip.compress(WHOLE[:15]), "no IDX file"),
    "cut values": (gzip.compress(WHOLE[:-1]), r"41 values where the header says \[7, 3, 2\]"),
    "long": (gzip.compress(WHOLE + b"\0"), "43 values"),
    "other count": (FILES[NAMES[3]], "7 labels for 5 images"),
}


@pytest.mark.parametrize(("content", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_input_errors(content, reason, tmp_path):
    write_files(tmp_path, {**FILES, NAMES[2]: content})
    with pytest.raises(InputError, match=rf"train-.*-ubyte\.gz: damaged \(.*{reason}.*\); delete it and run"):
        datasets.read("mnist", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_input_errors(name, tmp_path):
    (write_files(tmp_path) / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: not found; run"):
        datasets.read("mnist", tmp_path)


def test_digits_are_those_of_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.requests, "get", None)
    assert datasets.fetch("digits", ["http://127.0.0.1/"], tmp_path) == ["digits.npz"]
    data = datasets.read("digits", tmp_path)
    original = load_digits()
    assert {key: array.shape for key, (array, _) in data.items()} == {"train": (1437, 8, 8), "test": (360, 8, 8)}
    assert {array.dtype for pair in data.values() for array in pair} == {np.dtype(np.uint8)}
    images = np.concatenate([data["train"][0], data["test"][0]])
    labels = np.concatenate([data["train"][1], data["test"][1]])
    np.testing.assert_array_equal(labels, original.target)
    # Sixteen steps of 15.9375: rounding to whole numbers moves a value by half at most.
    np.testing.assert_allclose(images, original.images * 255 / 16, atol=0.5)
    assert images.min() == 0 and images.max() == 255


def test_digits_are_the_same_bytes_each_time(tmp_path):
    for folder in ("a", "b", "b"):
        datasets.fetch("digits", [], tmp_path / folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_missing_or_damaged_digits_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"digits\.npz: not found"):
        datasets.read("digits", tmp_path)
    np.savez(tmp_path / "digits.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.zeros(3, np.uint8))
    with pytest.raises(InputError, match=r"digits\.npz: damaged"):
        datasets.read("digits", tmp_path)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("mnist", "0", "9"), ("digits", "0", "9"), ("fashion_mnist", "T-shirt/top", "Ankle boot"), ("kmnist", "o", "wo")],
)
def test_class_names(name, first, last):
    names = datasets.class_names(name)
    assert len(set(names)) == 10 and (names[0], names[-1]) == (first, last)
