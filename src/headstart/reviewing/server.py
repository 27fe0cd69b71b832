"""The local server of a review: it listens on the loopback interface only, and answers those who know its token."""

import io
import json
import secrets
import socket
import threading
import time
import webbrowser
from typing import Any

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
from headstart.reviewing.queue import Review

HOST = "127.0.0.1"
# Hosts in a request's address: others may be names that an attacker has pointed at this machine (DNS rebinding).
HOSTS = (HOST, "localhost")
# Bytes of a decision, and pixels of an image.
MOST_BYTES, SIDE = 4096, 800
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def application(review: Review, token: str, port: int) -> Starlette:
    """Returns the application, whose addresses begin with `/token/`."""
    nonce = secrets.token_urlsafe(16)
    headers = {name: value.format(nonce=nonce) for name, value in HEADERS.items()}

    def page(request: Request) -> Response:
        return HTMLResponse(render("review.html.jinja", state=review.state(), nonce=nonce))

    def image(request: Request) -> Response:
        found = review.image(index) if (index := _index(request, review)) is not None else None
        if found is None:
            return Response(status_code=404)
        found.thumbnail((SIDE, SIDE))
        content = io.BytesIO()
        found.save(content, "JPEG", quality=85)
        return Response(content.getvalue(), media_type="image/jpeg")

    def similar(request: Request) -> Response:
        if (index := _index(request, review)) is None:
            return Response(status_code=404)
        return JSONResponse(review.similar(index, request.query_params.get("class", "")))

    async def decide(request: Request) -> Response:
        if request.headers.get("origin") not in {f"http://{host}:{port}" for host in HOSTS}:
            return JSONResponse({"error": "this page is not the review's"}, 403)
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                return JSONResponse({"error": "a decision is not that long"}, 413)
        return await run_in_threadpool(_decide, review, content)

    async def with_headers(request: Request, answer: RequestResponseEndpoint) -> Response:
        response = await answer(request)
        response.headers.update(headers)
        return response

    routes = [
        Route("/", page),
        Route("/images/{index:int}", image),
        Route("/similar/{index:int}", similar),
        Route("/decisions", decide, methods=["POST"]),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=with_headers), trusted]
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], middleware=middleware)


def _index(request: Request, review: Review) -> int | None:
    index = int(request.path_params["index"])
    return index if index < len(review.paths) else None


def _decide(review: Review, content: bytes) -> Response:
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


class ReviewServer:
    """Serves a review at `address`, until `close`."""

    def __init__(self, review: Review) -> None:
        self._socket = socket.socket()
        self._socket.bind((HOST, 0))
        # From now on, a browser that is faster than the server waits for it.
        self._socket.listen()
        port = self._socket.getsockname()[1]
        token = secrets.token_urlsafe(16)
        self.address = f"http://{HOST}:{port}/{token}/"
        app = application(review, token, port)
        self._server = Server(Config(app, log_level="error", lifespan="off", server_header=False, ws="none"))

    def serve(self) -> None:
        """Serves until Ctrl-C."""
        try:
            self._server.run(sockets=[self._socket])
        except KeyboardInterrupt:
            pass
        finally:
            self._socket.close()

    def serve_in_thread(self) -> "ReviewServer":
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
        log.info("review: %s (Ctrl-C ends it)", self.address)
        if opens_browser:
            webbrowser.open(self.address)
