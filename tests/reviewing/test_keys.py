"""The review's page in a browser, with keys that are really pressed."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import manifest_of

from headstart.config.data import SplitSettings
from headstart.data.corrections import FILE, read_corrections
from headstart.reviewing.queue import Review
from headstart.reviewing.server import ReviewServer
from headstart.run_folder import RunFolder

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}
WRONG = 30


class Browser:
    """A headless Chromium with one page, driven by the DevTools protocol over pipes."""

    def __init__(self, folder: Path, width: int) -> None:
        (commands, self._commands), (self._answers, answers) = os.pipe(), os.pipe()
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            f"--window-size={width},900",
            f"--user-data-dir={folder}",
        ]
        # Chromium reads commands from file descriptor 3 and answers on 4.
        script = f'exec 3<&{commands} 4>&{answers}; exec "$0" "$@"'
        command = ["bash", "-c", script, str(CHROMIUM), *options, "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(commands, answers), stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self._number, self._buffer, self._session = 0, b"", ""
        target = next(of for of in self.call("Target.getTargets")["targetInfos"] if of["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str) -> None:
        end = time.monotonic() + 30
        while not self.evaluate(expression):
            assert time.monotonic() < end, (expression, self.evaluate("document.body.innerText"))
            time.sleep(0.05)

    def press(self, key: str) -> None:
        of_key: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": CODES.get(key, ord(key[0].upper()))}
        text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **of_key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **of_key)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> bytes:
        while b"\0" not in self._buffer:
            assert select.select([self._answers], [], [], 60)[0], "the browser does not answer"
            self._buffer += os.read(self._answers, 1 << 16)
        message, _, self._buffer = self._buffer.partition(b"\0")
        return message


@pytest.fixture(params=[1200, 390])
def browser(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Browser]:
    browser = Browser(tmp_path / "profile", request.param)
    yield browser
    browser.close()


@pytest.fixture
def server(flat: Path, tmp_path: Path) -> Iterator[ReviewServer]:
    """Serves a review of WRONG labels to accept, to keep, or to leave out."""
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    (run / "report" / "report.json").write_text(json.dumps({"label_issues": {"listed": WRONG}}))
    manifest = manifest_of(flat, SplitSettings(6, 3))
    paths = [path for split in manifest.splits.values() for path in split.paths][:WRONG]
    rows = [f"{rank},{path},train,x,green,0.1" for rank, path in enumerate(paths, 1)]
    (run / "report" / "suspicious.csv").write_text("\n".join(["rank,path,split,label,suggested,belief", *rows]))
    server = ReviewServer(Review(RunFolder(run), manifest, None, flat / FILE)).serve_in_thread()
    yield server
    server.close()


def decided(browser: Browser, count: int) -> None:
    browser.wait_for(f'document.getElementById("count").textContent.endsWith("; {count} decided")')


@pytest.mark.slow
def test_keys__review_without_a_mouse(browser: Browser, server: ReviewServer, flat: Path) -> None:
    browser.call("Page.enable")
    browser.call("Page.navigate", url=server.address)
    browser.wait_for('document.getElementById("count")?.textContent.startsWith("1 of 30")')
    expected: dict[str, tuple[str, str]] = {}
    suggested = 'document.getElementById("suggestion").textContent'
    for number in range(WRONG):
        path = browser.evaluate('document.getElementById("large").alt')
        action, label = ("relabel", "green") if browser.evaluate(suggested) else ("keep", "")
        if number == 3:
            action, label = "leave_out", ""
        if number == 5:
            action, label = "relabel", "red"
            for key in ("c", "r", "e", "Enter"):
                browser.press(key)
        else:
            browser.press({"relabel": "a", "keep": "k", "leave_out": "x"}[action])
        expected[path] = action, label
        decided(browser, number + 1)
        if number == 7:
            browser.press("u")
            decided(browser, number)
            browser.press("x")
            expected[path] = "leave_out", ""
            decided(browser, number + 1)
    assert {c.path: (c.action, c.label) for c in read_corrections(flat / FILE)} == expected
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the window"
    assert browser.evaluate('document.getElementById("error").textContent') == ""
    browser.call("Page.reload")
    browser.wait_for('document.getElementById("count")?.textContent.endsWith("; 30 decided")')
