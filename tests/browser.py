"""A headless Chromium without network, driven over its DevTools pipe, to see pages as people do."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; apt-get install chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]
# Any name is unknown: what a page would fetch from elsewhere fails, as it does on a machine without internet.
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"


class Visit(NamedTuple):
    """What happened while a page was open: addresses asked for, requests that failed, complaints, answers."""

    requests: list[str]
    failures: list[str]
    complaints: list[str]
    answers: list[Any]


class Browser:
    """One open page in a browser; `call` sends a DevTools command, and events that come meanwhile are kept."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = os.fdopen(commands, "wb", buffering=0), os.fdopen(answers, "rb")
        self.numbers, self.events, self.session = itertools.count(1), [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.commands.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def happened(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]

    def _read(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser ended"
            message += byte
        return json.loads(message)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile in the folder `profile`, and end it with all its processes."""
    (its_commands, commands), (answers, its_answers) = os.pipe(), os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4.
    shell = ["bash", "-c", f'exec "$@" 3<&{its_commands} 4>&{its_answers}', "bash"]
    command = [*shell, CHROMIUM, *FLAGS, NO_NETWORK, f"--user-data-dir={profile}"]
    process = subprocess.Popen(command, pass_fds=(its_commands, its_answers), stderr=subprocess.DEVNULL)
    os.close(its_commands)
    os.close(its_answers)
    page = None
    try:
        page = Browser(commands, answers)
        yield page
        page.session = None
        page.call("Browser.close")
    finally:
        if page:
            page.commands.close()
            page.answers.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def visit(
    address: str, folder: Path, *expressions: str, width: int = 1000, scheme: str = "light", picture: str = ""
) -> Visit:
    """Open an address in a window of this width and evaluate JavaScript expressions, awaiting promises.

    `picture`, where given, is the name in `folder` under which the whole page is kept as a PNG.
    """
    with browser(folder / "profile") as page:
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.call("Page.navigate", url=address)
        page.wait_for("Page.loadEventFired")
        answers = [page.evaluate(expression) for expression in expressions]
        if picture:
            taken = page.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            (folder / picture).write_bytes(base64.b64decode(taken))
    complaints = [f"{found['exceptionDetails']}" for found in page.happened("Runtime.exceptionThrown")]
    complaints += [f"{found['entry']['text']}" for found in page.happened("Log.entryAdded")]
    complaints += [
        f"{found['type']}: {found['args']}"
        for found in page.happened("Runtime.consoleAPICalled")
        if found["type"] in ("error", "warning", "assert")
    ]
    return Visit(
        [found["request"]["url"] for found in page.happened("Network.requestWillBeSent")],
        [found["errorText"] for found in page.happened("Network.loadingFailed")],
        complaints,
        answers,
    )
