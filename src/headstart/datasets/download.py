"""Large files from the web: interrupted downloads resume, and files are verified before they are used."""

import hashlib
import http.client
import re
import socket
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from headstart.data.folders import OWN
from headstart.errors import HeadstartError
from headstart.progress import Advance, progress_bar

BLOCK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row without progress
PAUSE = 1.0  # seconds before the second attempt; doubled for each one after


class Interrupted(Exception):
    """The connection failed, or ended before the file did; another attempt may resume."""


def fetch(url: str, path: Path, md5: str | None) -> None:
    """Downloads `url` to `path`, by way of `partial(path)`, resuming an interrupted download.

    Raises:
        HeadstartError: it could not be downloaded, or does not have the checksum `md5` (None: not verified).
    """
    part = partial(path)
    failures = 0
    while True:
        before = _size(part)
        try:
            _resume(url, part)
            break
        except Interrupted as error:
            # An attempt that made progress is not a failure.
            failures = 1 if _size(part) > before else failures + 1
            if failures == ATTEMPTS:
                raise HeadstartError(f"{url} could not be downloaded: {error}") from None
            time.sleep(PAUSE * 2 ** (failures - 1))
    try:
        check_md5(part, md5)
    except HeadstartError:
        # Resuming from here would give the same file again.
        part.unlink()
        raise
    part.replace(path)


def partial(path: Path) -> Path:
    """What there is of an interrupted download. A browser's own may be `path`.part."""
    return path.with_name(f"{OWN}-{path.name}.part")


def check_md5(path: Path, md5: str | None) -> None:
    """Verifies the MD5 of a file (None: not verified).

    Raises:
        HeadstartError: it is another; names both.
    """
    if md5 is None:
        return
    total = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file, _bar(f"verifying {path.name}", path.stat().st_size) as advance:
        while block := file.read(BLOCK):
            total.update(block)
            advance(len(block))
    if total.hexdigest() != md5:
        raise HeadstartError(f"{path} is damaged, or a different file: its MD5 is {total.hexdigest()}, not {md5}")


def _resume(url: str, part: Path) -> None:
    """One attempt to complete `part`."""
    response = _open(url, _size(part), part)
    if response is None:
        return
    with response:
        resumes = response.status == http.HTTPStatus.PARTIAL_CONTENT
        start = _size(part) if resumes else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        part.parent.mkdir(parents=True, exist_ok=True)
        name = part.stem.removeprefix(f"{OWN}-")
        left = None if total is None else total - start
        with part.open("ab" if resumes else "wb") as file, _bar(f"downloading {name}", left) as advance:
            while block := _read(response):
                file.write(block)
                advance(len(block))
    if total is not None and _size(part) < total:
        raise Interrupted(f"the connection was lost after {_size(part):,} of {total:,} bytes")


def _open(url: str, start: int, part: Path) -> Any:
    """The response to a request for everything from the byte `start`; None if there is nothing left."""
    # Of a compressed response the bytes could not be counted.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return None
            part.unlink()
            raise Interrupted("the file on the server is shorter than the partial download") from None
        if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise HeadstartError(f"{url} could not be downloaded: {error}") from None
        raise Interrupted(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, socket.gaierror | ConnectionRefusedError):
            # No such host, or no network: waiting a few seconds would not help.
            raise HeadstartError(f"{url} could not be downloaded: {reason}") from None
        raise Interrupted(str(reason)) from None
    if response.status == http.HTTPStatus.PARTIAL_CONTENT and _first_byte(response) != start:
        response.close()
        part.unlink()
        raise Interrupted("the server sent a different range than requested")
    return response


def _read(response: Any) -> bytes:
    try:
        block: bytes = response.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(str(error)) from None
    return block


def _first_byte(response: Any) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _bar(text: str, total: int | None) -> AbstractContextManager[Advance]:
    return progress_bar(text, total, unit="B")
