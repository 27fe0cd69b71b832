"""Local servers: they listen on the loopback interface only, and answer those who know their token.

The routes of a review are here: its page, its images, and the decisions.
"""

import io
import json
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Sequence
from typing import Any, Self

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from uvicorn import Config, Server

from headstart.errors import HeadstartError
from headstart.log import log
from headstart.report.style import render
from headstart.reviewing.queue import Queue

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
# Bytes of a decision.
MOST_BYTES = 4096


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


class ReviewServer(LocalServer):
    """Serves a review."""

    def __init__(self, review: Queue) -> None:
        super().__init__("review", _routes(review))


def _routes(review: Queue) -> list[Route]:
    def show(request: Request) -> Response:
        return page(request, "review.html.jinja", state=review.state())

    def image(request: Request) -> Response:
        return as_jpeg(review.image(index) if (index := _index(request, review)) is not None else None)

    def similar(request: Request) -> Response:
        if (index := _index(request, review)) is None:
            return Response(status_code=404)
        return JSONResponse(review.similar(index, request.query_params.get("class", "")))

    async def decide(request: Request) -> Response:
        if is_foreign(request) or "origin" not in request.headers:
            return JSONResponse({"error": "this page is not the review's"}, 403)
        if (content := await body_of(request, MOST_BYTES)) is None:
            return JSONResponse({"error": "a decision is not that long"}, 413)
        return await run_in_threadpool(_decide, review, content)

    return [
        Route("/", show),
        Route("/images/{index:int}", image),
        Route("/similar/{index:int}", similar),
        Route("/decisions", decide, methods=["POST"]),
    ]


def _index(request: Request, review: Queue) -> int | None:
    index = int(request.path_params["index"])
    return index if index < len(review.paths) else None


def _decide(review: Queue, content: bytes) -> Response:
    try:
        given: Any = json.loads(content)
        index, action, label = int(given["index"]), str(given["action"]), str(given.get("label", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return JSONResponse({"error": "a decision needs index and action"}, 400)
    try:
        return JSONResponse({"decision": review.decide(index, action, label)})
    except HeadstartError as error:
        return JSONResponse({"error": str(error)}, 400)
    except OSError as error:
        return JSONResponse({"error": f"{review.file} could not be written: {error.strerror}"}, 507)
