"""Local pages, asked over HTTP and by a headless Chromium."""

import json
import os
import select
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from headstart.reviewing.local import LocalServer

CHROMIUM = shutil.which("chromium")
CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}


def ask(address: str, body: Any = None, **headers: str) -> tuple[int, bytes, Any]:
    """The status, the content and the headers of an answer; a POST if there is a `body`."""
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, content, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def origin_of(server: LocalServer) -> str:
    return server.address.rsplit("/", 2)[0]


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
