import contextlib
import datetime
import email.utils
import hashlib
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torchvision

from tests.conftest import posix_only
from tests.sources.published import FILES, NAMES, made_up_files, write_files
from vae.errors import WorkError
from vae.sources import mirrors

CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
PUBLISHED = {name: dict(getattr(torchvision.datasets, CLASSES[name]).resources) for name in CLASSES}


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
    allowed = ""  # what must follow a file's name

    def do_GET(self):
        self.server.requests.append(self.path)
        _, mirror, file = self.path.split("/", 2)
        file = file.partition("?")[0] if self.path.endswith(self.allowed) else ""
        faults = self.server.faults.get(mirror, [])
        answer = faults.pop(0) if faults else send
        answer(self, self.server.files.get(file, b""))

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
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(mirrors, "TIMEOUT", (5, 0.2))
    monkeypatch.setattr(mirrors, "GRACE", 2)


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


def test_files_arrive_as_published(site, tmp_path, capsys):
    names = mirrors.fetch("mnist", [site.url("a")], tmp_path / "raw")
    assert names == list(PUBLISHED["mnist"])
    assert contents(tmp_path / "raw") == FILES
    assert capsys.readouterr().err == ""  # no progress bar without a terminal


def test_labels_come_first(site, tmp_path):
    mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert site.asked("a") == NAMES


@pytest.mark.parametrize("name", CLASSES)
def test_each_data_set_has_its_own_files_and_mirrors(name, monkeypatch, site, tmp_path):
    assert sorted(PUBLISHED[name]) == sorted(NAMES)
    _, site.files = made_up_files(seed=1)
    publish(monkeypatch, name, site.files, mirrors=[site.url("published")])
    mirrors.fetch(name, [], tmp_path)
    assert contents(tmp_path) == site.files


def promise_too_much(handler, _):
    send(handler, b"", length=10**15)


def never_end(handler, content):
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.server.closing.is_set():
            handler.wfile.write(content * 1000)


def trickle(handler, content):
    with contextlib.suppress(OSError):
        for byte in content:
            handler.wfile.write(bytes([byte]))
            if handler.server.closing.wait(0.05):
                return


def trickle_body(handler, content):
    send(handler, b"", length=1000 * len(content))
    trickle(handler, 1000 * content)


def trickle_header(handler, _):
    trickle(handler, b"HTTP/1.0 200 OK\r\nX-Long: " + b"a" * 10_000)


def lead_astray(handler, _):
    send(handler, b"", 302, Location="http://[::bad/")


def say(reason, code=404):
    def answer(handler, _):
        handler.send_response_only(code, reason)
        handler.end_headers()

    return answer


LASTING = {
    "403": (status(403), "403 Forbidden"),
    "404": (status(404), "404 Not Found"),
    "410": (status(410), "410 Gone"),
    "304": (status(304), "304 Not Modified"),
    "checksum": (corrupt, "wrong checksum"),
    "html": (html, "an HTML page"),
    "redirects": (lambda handler, _: send(handler, b"", 302, Location=handler.path), "30 redirects"),
    "location": (lead_astray, "Invalid|Failed to parse"),
    "size": (promise_too_much, "1000000000000000 bytes, expected at most 1048576"),
    "endless": (never_end, "more than 1048576 bytes"),
    "slow body": (trickle_body, "too slow"),
    "slow header": (trickle_header, "too slow"),
    "far future": (status(503, Retry_After="3600"), "asks to wait 3600 s"),
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
    mirrors.fetch("mnist", [site.url("a"), site.url("b")], tmp_path)
    assert contents(tmp_path) == FILES
    assert site.asked("a") == [NAMES[0], NAMES[0], *NAMES] and site.asked("b") == []
    assert 1 <= waits[0] <= 2 <= waits[1] <= 3 and len(waits) == 2
    assert reason in caplog.messages[0] and "trying again in" in caplog.messages[0]


@pytest.mark.fault
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_mirror_that_says_when_to_come_back_is_asked_then(form, site, tmp_path, waits):
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=50)
    asked = "50" if form == "seconds" else email.utils.format_datetime(later, usegmt=True)
    site.faults["a"] = [status(503, Retry_After=asked)]
    mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert len(waits) == 1
    assert 40 < waits[0] <= 50


@pytest.mark.parametrize("value", ["soon", "-5", "1e9", ""])
def test_an_answer_when_to_come_back_that_is_none_is_passed_over(value, site, tmp_path, waits):
    site.faults["a"] = [status(429, Retry_After=value)]
    mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert len(waits) == 1
    assert waits[0] <= 2


@pytest.mark.fault
@pytest.mark.parametrize("code", [404, 503])
def test_control_characters_of_a_server_do_not_reach_the_terminal(code, site, tmp_path, caplog):
    site.faults["a"] = [say("Not \x1b[31mred\x07\x9b2J" + "x" * 5000, code)] * 3
    with pytest.raises(WorkError, match="Not") as caught:
        mirrors.fetch("mnist", [site.url("a")], tmp_path)
    lines = [*str(caught.value).splitlines(), *caplog.messages]
    assert all(line.isprintable() and len(line) < 600 for line in lines)


@posix_only
@pytest.mark.fault
@pytest.mark.parametrize("form", ["{path}", "file://{path}"])
@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder", "endless"])
def test_a_folder_whose_files_are_not_files_is_left_for_the_next_mirror(form, kind, site, tmp_path):
    folder = tmp_path / "mirror"
    folder.mkdir()
    if kind == "pipe":
        os.mkfifo(folder / NAMES[0])
    elif kind == "folder":
        (folder / NAMES[0]).mkdir()
    elif kind == "endless":
        with (folder / NAMES[0]).open("wb") as file:
            file.truncate(10**15 if os.uname().sysname != "Linux" else 10**12)
    else:
        (folder / NAMES[0]).symlink_to("/dev/zero")
    mirrors.fetch("mnist", [form.format(path=folder), site.url("a")], tmp_path / "raw")
    assert contents(tmp_path / "raw") == FILES
    reason = "expected at most" if kind == "endless" else "not a regular file"
    with pytest.raises(WorkError, match=reason):
        mirrors.fetch("mnist", [form.format(path=folder)], tmp_path / "other")


def test_waits_have_jitter(site, tmp_path, waits):
    site.faults["a"] = [status(503)] * 2
    mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert all(not seconds.is_integer() for seconds in waits)


@pytest.mark.fault
@pytest.mark.parametrize(("fault", "reason"), PASSING.values(), ids=PASSING)
def test_what_does_not_pass_costs_a_bounded_number_of_attempts(fault, reason, site, tmp_path):
    site.faults["a"] = [fault] * 99
    with pytest.raises(WorkError, match=reason):
        mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert len(site.requests) == mirrors.ATTEMPTS
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("fault", "reason"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_not_tried_again(fault, reason, site, tmp_path, waits):
    site.faults["a"] = [fault] * 99
    with pytest.raises(WorkError, match=reason):
        mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert len(set(site.requests)) == 1 and waits == []
    assert contents(tmp_path) == {}


@pytest.mark.fault
@pytest.mark.parametrize(("fault", "reason"), [*LASTING.values(), *PASSING.values()], ids=[*LASTING, *PASSING])
def test_the_next_mirror_takes_over_for_the_rest_of_the_run(fault, reason, site, tmp_path):
    site.faults["a"] = [fault] * 99
    mirrors.fetch("mnist", [site.url("a"), site.url("b")], tmp_path)
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
    mirrors.fetch("mnist", [mirror, site.url("a")], tmp_path / "raw")
    assert contents(tmp_path / "raw") == FILES and waits == []
    with pytest.raises(WorkError, match=reason):
        mirrors.fetch("mnist", [mirror], tmp_path / "other")


def test_an_unknown_host_is_not_tried_again(monkeypatch, tmp_path, waits):
    def fail(*_, **__):
        raise mirrors.socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(mirrors.socket, "getaddrinfo", fail)
    with pytest.raises(WorkError, match="Name or service not known"):
        mirrors.fetch("mnist", ["http://mirror.invalid/"], tmp_path)
    assert waits == []


def test_a_proxy_that_refuses_is_not_tried_again(monkeypatch, site, tmp_path, waits):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{site.server_port}")
    with pytest.raises(WorkError, match="Tunnel connection failed"):
        mirrors.fetch("mnist", ["https://mirror.invalid/"], tmp_path)
    assert waits == []


def test_redirects_are_followed(site, tmp_path):
    site.faults["a"] = [status(302, Location=f"/b/{NAMES[0]}"), status(301, Location=f"/b/{NAMES[1]}")]
    mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert contents(tmp_path) == FILES
    assert len(site.asked("b")) == 2


def test_files_declared_as_gzip_encoded_stay_packed(site, tmp_path):
    site.faults["a"] = [lambda handler, content: send(handler, content, Content_Encoding="gzip")] * 4
    mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert contents(tmp_path) == FILES


def test_mirrors_are_asked_in_order_and_once(monkeypatch, site, tmp_path):
    publish(monkeypatch, "mnist", FILES, mirrors=[site.url("published"), site.url("setting")])
    site.faults = {name: [status(404)] * 9 for name in ("own", "setting", "published")}
    with pytest.raises(WorkError):
        mirrors.fetch("mnist", [site.url("own").rstrip("/"), *map(site.url, ("setting", "own", "setting"))], tmp_path)
    assert [path.split("/")[1] for path in site.requests] == ["own", "setting", "published"]


def test_a_mirror_may_be_a_url_without_a_slash_at_its_end(site, tmp_path):
    mirrors.fetch("mnist", [site.url("own").rstrip("/"), site.url("setting")], tmp_path)
    assert contents(tmp_path) == FILES
    assert len(site.asked("own")) == 4 and site.asked("setting") == []


@pytest.mark.parametrize("form", ["{path}", "{path}/", "{uri}", "{uri}/", "~/a mirror", "a mirror"])
def test_a_mirror_may_be_a_folder(form, monkeypatch, site, tmp_path):
    folder = write_files(tmp_path / "a mirror")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    mirrors.fetch("mnist", [form.format(path=folder, uri=folder.as_uri()), site.url("a")], "raw")
    assert contents(tmp_path / "raw") == FILES and contents(folder) == FILES
    assert site.requests == []


def test_a_folder_with_wrong_files_is_left_for_the_next_mirror(site, tmp_path):
    _, others = made_up_files(seed=1)
    mirrors.fetch("mnist", [str(write_files(tmp_path / "wrong", others)), site.url("a")], tmp_path / "raw")
    assert contents(tmp_path / "raw") == FILES


def test_right_files_are_kept_and_not_fetched_again(site, tmp_path):
    kept = NAMES[2]
    write_files(tmp_path, {kept: FILES[kept]})
    before = (tmp_path / kept).stat()
    mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert kept not in site.asked("a") and contents(tmp_path) == FILES
    mirrors.fetch("mnist", [], tmp_path)
    after = (tmp_path / kept).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_wrong_files_are_replaced(site, tmp_path):
    write_files(tmp_path, dict.fromkeys(NAMES, b"half a file"))
    mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("fault", [status(404), corrupt, truncate])
def test_a_failed_download_keeps_right_files_and_leaves_no_wrong_one(fault, site, tmp_path):
    write_files(tmp_path, {NAMES[0]: b"half a file", NAMES[1]: FILES[NAMES[1]]})
    site.faults["a"] = [fault] * 99
    with pytest.raises(WorkError):
        mirrors.fetch("mnist", [site.url("a")], tmp_path)
    assert contents(tmp_path) == {NAMES[1]: FILES[NAMES[1]]}


def test_the_message_lists_each_mirror_with_its_reason(site, tmp_path):
    site.faults = {"a": [status(404)], "b": [corrupt], "c": [send, send, status(503), status(503), status(503)]}
    with pytest.raises(WorkError) as caught:
        mirrors.fetch("mnist", [str(tmp_path / "nowhere"), *map(site.url, "abc")], tmp_path / "raw")
    first, *reasons = str(caught.value).splitlines()
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


def test_passwords_are_not_shown(site, tmp_path, caplog):
    site.faults["a"] = [status(503)] * 3
    given = [site.url("a").replace("//", "//reader:secret@"), "ftp://reader:secret@127.0.0.1/"]
    with pytest.raises(WorkError) as caught:
        mirrors.fetch("mnist", given, tmp_path)
    assert "://***@127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value) + caplog.text


@pytest.mark.fault
@pytest.mark.parametrize(
    "mirror",
    [
        "http://reader:hunter2@127.0.0.1:{port}/a/",
        "http://reader:hunter2/x@127.0.0.1:{port}/a/",
        "http://reader:p@hunter2@127.0.0.1:{port}/a/",
        "http://reader:my hunter2@127.0.0.1:{port}/a/",
        "http://[reader:hunter2@127.0.0.1:{port}/a/",
        "http://127.0.0.1:{port}/a/?token=hunter2",
        "http://127.0.0.1:{port}/a?hunter2",
        "http://127.0.0.1:{port}/a?token=a@hunter2",
        "https://127.0.0.1:{port}/a/?token=hunter2",
        "gopher://reader:hunter2@127.0.0.1:{port}/a/",
        "http://reader.invalid:99999/?token=hunter2",
    ],
)
def test_no_part_of_a_secret_is_shown(mirror, site, tmp_path, caplog, capsys):
    site.faults["a"] = [status(503)] * 9
    with pytest.raises(WorkError) as caught:
        mirrors.fetch("mnist", [mirror.format(port=site.server_port)], tmp_path)
    assert "hunter2" not in f"{caught.value} {caplog.text} {capsys.readouterr()}"


def test_a_query_goes_behind_the_files_name(monkeypatch, site, tmp_path):
    monkeypatch.setattr(Handler, "allowed", "?token=hunter2")
    mirrors.fetch("mnist", [f"{site.url('a')}?token=hunter2"], tmp_path)
    assert contents(tmp_path) == FILES


def test_a_folder_that_cannot_be_written_is_not_blamed_on_the_mirrors(site, tmp_path):
    (tmp_path / "raw").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="raw"):
        mirrors.fetch("mnist", [site.url("a"), site.url("b")], tmp_path / "raw")


def test_digits_need_no_mirror(tmp_path, monkeypatch):
    monkeypatch.setattr(mirrors.requests, "get", None)
    assert mirrors.fetch("digits", ["http://127.0.0.1/"], tmp_path) == ["digits.npz"]


def test_digits_are_the_same_bytes_each_time(tmp_path):
    for folder in ("a", "b", "b"):
        mirrors.fetch("digits", [], tmp_path / folder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
