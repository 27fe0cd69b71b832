"""Servers on 127.0.0.1 that stand for object storage and the web, and a proxy that fails as networks do."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a fault does to one answer: the status in place of it, "reset", "truncated", or None to let it pass.
Fault = Callable[[str], int | str | None]


@dataclass
class Server:
    """A running server; `requests` counts the paths asked for, `fault` decides what goes wrong with each."""

    url: str
    requests: Counter[str] = field(default_factory=Counter)
    fault: Fault = lambda path: None
    latency: float = 0.0

    def fail_first(self, times: int, how: int | str, part: str = ".jpg") -> None:
        """Lets the first answers for each path with `part` in it fail."""
        seen: Counter[str] = Counter()

        def fault(path: str) -> int | str | None:
            if part not in path:
                return None
            seen[path] += 1
            return how if seen[path] <= times else None

        self.fault = fault


Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(answer: Callable[[str, str, dict[str, str]], Answer]) -> Iterator[Server]:
    """Runs a server whose answers to (method, path, headers) are those of `answer`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            server.requests[urlsplit(self.path).path] += 1
            time.sleep(server.latency)
            fault = server.fault(self.path)
            if fault == "reset":
                self.close_connection = True
                self.connection.close()
                return
            status, headers, content = answer(self.command, self.path, dict(self.headers))
            if isinstance(fault, int):
                status, headers, content = fault, {}, b""
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if fault == "truncated" else content)
            if fault == "truncated":
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_POST = handle_any

        def log_message(self, *args: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server = Server(f"http://127.0.0.1:{web.server_address[1]}")
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()


@contextmanager
def serving_folder(folder: Path) -> Iterator[Server]:
    """Serves the files in `folder`, with ETags."""

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        file = folder / unquote(urlsplit(path).path).strip("/")
        if not file.is_file():
            return 404, {}, b""
        content = file.read_bytes()
        tag = {"ETag": f'"{file.stat().st_mtime_ns}"', "Content-Length": str(len(content)), "Accept-Ranges": "none"}
        return 200, tag, content

    with serving(answer) as server:
        yield server


@contextmanager
def before(address: str) -> Iterator[Server]:
    """Runs a proxy for the server at `address`."""

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        connection = HTTPConnection(address.removeprefix("http://"), timeout=30)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), content

    with serving(answer) as server:
        yield server
