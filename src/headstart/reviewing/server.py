"""The routes of a review: its page, its images, and the decisions."""

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headstart.errors import HeadstartError
from headstart.reviewing.local import LocalServer, as_jpeg, body_of, is_foreign, page
from headstart.reviewing.queue import Queue

# Bytes of a decision.
MOST_BYTES = 4096


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
