"""Downloads from a local server that misbehaves as each test asks."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from headstart.datasets import caltech256
from headstart.datasets.caltech256 import fetch, partial
from headstart.errors import HeadstartError

CONTENT = bytes(range(256)) * 20_000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`; `breaks` are the numbers of bytes after which it hangs up, one per response."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.breaks: list[int] = []
        self.resumes = True
        self.announces: int | None = None
        self.statuses: list[int] = []
        self.shift = 0
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/archive.tar"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.resumes else 0
        whole = len(self.server.content)
        if start and start >= whole:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{whole}")
            self.end_headers()
            return
        body = self.server.content[start + self.server.shift :]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + self.server.shift}-{whole - 1}/{whole}")
        announced = self.server.announces
        self.send_header("Content-Length", str(len(body) if announced is None else announced - start))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks.pop(0)] if self.server.breaks else body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(caltech256, "PAUSE", 0.001)
    # A proxy could not reach this server.
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "archive.tar"


def error_of(server: Server, path: Path, md5: str | None = MD5) -> str:
    with pytest.raises(HeadstartError) as caught:
        fetch(server.url, path, md5)
    assert not path.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fetch__the_whole_file(server: Server, path: Path) -> None:
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert list(path.parent.iterdir()) == [path]


def test_lost_connection__resumes(server: Server, path: Path) -> None:
    server.breaks = [1_000_000, 2_000_000, 50_000]
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=3000000-", "bytes=3050000-"]


def test_lost_connection__more_often_than_there_are_attempts_but_with_progress(server: Server, path: Path) -> None:
    server.breaks = [100_000] * 20
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT


def test_partial_download__resumes_in_another_process(server: Server, path: Path) -> None:
    path.parent.mkdir()
    partial(path).write_bytes(CONTENT[:777])
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=777-"]


def test_partial_download__already_complete(server: Server, path: Path) -> None:
    path.parent.mkdir()
    partial(path).write_bytes(CONTENT)
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT


def test_server_without_ranges__starts_again(server: Server, path: Path) -> None:
    server.resumes = False
    server.breaks = [1_000_000]
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT


def test_server_with_wrong_range__is_rejected(server: Server, path: Path) -> None:
    path.parent.mkdir()
    partial(path).write_bytes(CONTENT[:777])
    server.shift = 10
    error_of(server, path)


def test_content_length__too_large(server: Server, path: Path) -> None:
    server.announces = len(CONTENT) + 1000
    # Asked for the rest, the server replies that there is none, and the checksum is right.
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT


def test_content_length__too_large_from_a_server_without_ranges(server: Server, path: Path) -> None:
    server.announces = len(CONTENT) + 1000
    server.resumes = False
    assert f"the connection was lost after {len(CONTENT):,} of {len(CONTENT) + 1000:,} bytes" in error_of(server, path)


def test_content_length__too_small(server: Server, path: Path) -> None:
    server.announces = 1000
    assert f"not {MD5}" in error_of(server, path)
    # The next download does not resume this one.
    server.announces = None
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT


def test_md5__mismatch(server: Server, path: Path) -> None:
    server.content = CONTENT[:-1] + b"x"
    assert f"its MD5 is {hashlib.md5(server.content).hexdigest()}, not {MD5}" in error_of(server, path)
    assert not list(path.parent.iterdir())


def test_md5__not_verified_if_none_is_given(server: Server, path: Path) -> None:
    server.content = b"something else"
    fetch(server.url, path, None)
    assert path.read_bytes() == b"something else"


def test_server_errors__temporary(server: Server, path: Path) -> None:
    server.statuses = [503, 500]
    fetch(server.url, path, MD5)
    assert path.read_bytes() == CONTENT


def test_server_errors__permanent(server: Server, path: Path) -> None:
    server.statuses = [503] * caltech256.ATTEMPTS
    assert "503" in error_of(server, path)
    assert len(server.ranges) == caltech256.ATTEMPTS
    server.statuses = [404]
    assert "404" in error_of(server, path)
    assert len(server.ranges) == caltech256.ATTEMPTS + 1


def test_no_server(server: Server, path: Path) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(HeadstartError, match="refused"):
        fetch(url, path, MD5)
