"""A local server: it listens on the loopback interface only, and answers those who know its token."""

import io
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Sequence
from typing import Any, Self

from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from uvicorn import Config, Server

from headstart.log import log
from headstart.report.style import render

HOST = "127.0.0.1"
# Hosts in a request's address: others may be names that an attacker has pointed at this machine (DNS rebinding).
HOSTS = (HOST, "localhost")
SIDE = 800  # pixels of an image
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page(request: Request, template: str, **values: Any) -> Response:
    """Returns the page that `template` makes of `values`, and of the nonce that its script needs."""
    return HTMLResponse(render(template, nonce=request.app.state.nonce, **values))


def is_foreign(request: Request) -> bool:
    """Whether another page than ours sent it. Browsers name the page with every POST; other programs name none."""
    return request.headers.get("origin") not in (None, *request.app.state.origins)


async def body_of(request: Request, most: int) -> bytes | None:
    """Returns what the request has sent; None: it is longer than `most` bytes, which are all that is kept.

    It is received to its end in any case: who is still sending does not see an answer.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
    return b"".join(parts) if size <= most else None


def as_jpeg(image: Image.Image | None) -> Response:
    """Returns the image, reduced to SIDE pixels; there may be none."""
    if image is None:
        return Response(status_code=404)
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return Response(content.getvalue(), media_type="image/jpeg")


class LocalServer:
    """Serves `routes` below `address`, which has the token, until `close`. `name` is what messages call it."""

    def __init__(self, name: str, routes: Sequence[Route]) -> None:
        self._socket, self._name = socket.socket(), name
        self._socket.bind((HOST, 0))
        # From now on, a browser that is faster than the server waits for it.
        self._socket.listen()
        port, token = self._socket.getsockname()[1], secrets.token_urlsafe(16)
        self.address = f"http://{HOST}:{port}/{token}/"
        app = _application(routes, token, port)
        self._server = Server(Config(app, log_level="error", lifespan="off", server_header=False, ws="none"))

    def serve(self) -> None:
        """Serves until Ctrl-C."""
        try:
            self._server.run(sockets=[self._socket])
        except KeyboardInterrupt:
            pass
        finally:
            self._socket.close()

    def serve_in_thread(self) -> Self:
        """Serves while the program goes on, as in a notebook."""
        threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True).start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def close(self) -> None:
        """Ends a server that was started with `serve_in_thread`."""
        self._server.should_exit = True

    def announce(self, *, opens_browser: bool) -> None:
        """Says where the page is, and opens it if that is wanted and possible."""
        log.info("%s: %s (Ctrl-C ends it)", self._name, self.address)
        if opens_browser:
            webbrowser.open(self.address)


def _application(routes: Sequence[Route], token: str, port: int) -> Starlette:
    nonce = secrets.token_urlsafe(16)
    headers = {name: value.format(nonce=nonce) for name, value in HEADERS.items()}

    async def with_headers(request: Request, answer: RequestResponseEndpoint) -> Response:
        response = await answer(request)
        response.headers.update(headers)
        return response

    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=with_headers), trusted]
    app = Starlette(routes=[Mount(f"/{token}", routes=list(routes))], middleware=middleware)
    app.state.nonce, app.state.origins = nonce, {f"http://{host}:{port}" for host in HOSTS}
    return app
