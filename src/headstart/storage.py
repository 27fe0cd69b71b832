"""Files in object storage and on web servers, through fsspec: listed once, fetched in parallel, kept by their version.

`local` turns a URL into a path: that of a copy or, for a folder, of a *listing*, a file that says what is in it. A
listing is read in place like an archive (`archives.py`), so that nothing else knows of URLs; `fetch` gets the content
of one of its files. Messages and records call such paths by their URL (`headstart.text.named`).
"""

import glob
import hashlib
import itertools
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from headstart.errors import HeadstartError
from headstart.files import (
    ForkSafeLock,
    exclusively,
    folder_in_cache,
    make_room,
    read_json,
    replacing,
    write_json,
    write_text,
)
from headstart.log import log
from headstart.machine import DISK_FULL
from headstart.text import URL, call, is_url, named

# The package that fsspec needs for a protocol.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp"}
# Parameters that make a URL a credential: signatures of S3, Google, Azure and others, and tokens.
SECRETS = re.compile(r"(x-(amz|goog)-(signature|credential|security-token)|signature|sig|token|access_token|api_?key)$")
# Without folders, and where "?" begins parameters.
WEB = ("http", "https")
# Where the cache has copies, listings and contents; the first key of a listing; the bytes of a SHA-256.
FOLDER, CONTENTS, KIND, DIGEST = "remote", "contents", "headstart listing", 32
# Seconds before each further attempt at what failed for a reason that may pass.
WAITS = (0.2, 0.5, 1.0, 2.0, 4.0)
# Ends the name of what says which version a copy is.
VERSION = ".version"
# Statuses of 4xx that may pass: a timeout, and too many requests.
PASSING = (408, 429)
# Seconds without a byte.
SILENCE = 30
# Files that are fetched at the same time.
AT_ONCE = 24
# For what has no data.cache_gb.
DEFAULT_GB = 20.0
# Of the bound, what is written before unused files are looked for again.
STEP = 0.05

Result = TypeVar("Result")
_lock = ForkSafeLock()
# fsspec's own cache has one file system for each thread, and each would connect anew.
_systems: dict[tuple[int, str], Any] = {}
_written = 0


class Remote(NamedTuple):
    """Names a file in a listing: its URL, its size in bytes, and what changes with its content, such as an ETag."""

    url: str
    size: int
    version: str


class Listing(NamedTuple):
    """Says what is in a folder: its files by the path in it. At most `most` bytes of contents are kept."""

    url: str
    most: int
    files: dict[str, Remote]


def local(place: str | os.PathLike[str], gigabytes: float = DEFAULT_GB) -> Path:
    """Returns `place` as a path; of a URL, that of a copy or a listing as it is now.

    In storage with folders, the URL may end with a glob.

    Args:
        gigabytes: the most that is kept of remote files; those not used for longest are deleted.

    Raises:
        HeadstartError: there is nothing at the URL, it may not be read or cannot be reached, or a package is missing.
    """
    text = os.fspath(place)
    if not is_url(text):
        return Path(text).expanduser()
    protocol, rest = str(URL.match(text)[1]).lower(), URL.sub("", text, count=1)  # type: ignore[index]
    if protocol in WEB:
        return _located(f"{protocol}://{rest}", gigabytes)
    parts = [part for part in rest.split("/") if part]
    named_parts = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    return _located(f"{protocol}://{'/'.join(named_parts)}", gigabytes).joinpath(*parts[len(named_parts) :])


def _located(url: str, gigabytes: float) -> Path:
    _check_no_secrets(url)
    parts = urlsplit(url)
    names = [name for name in parts.path.split("/") if name not in ("", ".", "..")]
    folder = _folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    place = folder.joinpath(f"{parts.scheme}:", parts.netloc, *names)
    call(str(place), url)
    with exclusively(folder):
        # What an earlier call has seen may have changed: notebooks and servers run for days.
        _attempt(lambda: _system(url).invalidate_cache(), url)
        info = _attempt(lambda: _system(url).info(url), url)
        if info["type"] == "directory":
            _list(url, place, int(gigabytes * 1e9))
        else:
            _copy(Remote(url, _size(info), _version(info)), place, int(gigabytes * 1e9))
    return place


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is what `local` returned for a URL in this process, or in it."""
    return named(os.fspath(path)) != os.fspath(path)


def _folder() -> Path:
    return folder_in_cache(FOLDER)


def _check_no_secrets(url: str) -> None:
    """Raises HeadstartError if the URL has a password or a signature, which runs would record."""
    parts = urlsplit(url)
    if "@" in parts.netloc or any(SECRETS.search(name.lower()) for name, _ in parse_qsl(parts.query)):
        raise HeadstartError(
            f"the URL {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} has a password or a signature in "
            "it, which records would show: let the library of its storage find the credentials, or download the file"
        )


def _list(url: str, place: Path, most: int) -> None:
    """Writes what is in the folder at `url` to `place`, unless it says so already."""
    system = _system(url)
    log.info("listing %s", url)
    found = _attempt(lambda: system.find(url, detail=True), url)
    top = str(system._strip_protocol(url)).strip("/")
    rows = [
        # Without a version, it is another file each time.
        (name.strip("/").removeprefix(top).strip("/"), _size(info), _version(info) or secrets.token_hex(8))
        for name, info in sorted(found.items())
        # The consoles of object storage make empty objects for folders.
        if info["type"] == "file" and not name.endswith("/")
    ]
    text = json.dumps({KIND: 1, "url": url.rstrip("/"), "most": most, "files": rows}) + "\n"
    with suppress(OSError):
        # An unchanged file keeps its time, so that other processes go on with it.
        if place.read_text(encoding="utf-8") == text:
            return
    write_text(place, text)


def is_listing(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a listing."""
    return start.startswith(f'{{"{KIND}"'.encode())


def read_listing(file: IO[bytes]) -> Listing:
    """Returns the listing in `file`."""
    values = json.load(file)
    url = values["url"]
    return Listing(url, values["most"], {name: Remote(f"{url}/{name}", *rest) for name, *rest in values["files"]})


def _copy(remote: Remote, place: Path, most: int) -> None:
    """Downloads a file to `place`, unless this version of it is there."""
    record = place.with_name(f".{place.name}{VERSION}")
    with suppress(OSError, ValueError):
        if remote.version and read_json(record) == [remote.version, place.stat().st_size]:
            os.utime(place)
            return
    if remote.size > most:
        raise HeadstartError(
            f"{remote.url} has {remote.size / 1e9:.1f} GB, more than data.cache_gb={most / 1e9:g}: increase it"
        )
    log.info("downloading %s", remote.url)
    record.unlink(missing_ok=True)
    with replacing(place) as temporary:
        _attempt(lambda: _download(remote, temporary), remote.url)
    write_json(record, [remote.version, place.stat().st_size])
    _make_room(place, most)


def _download(remote: Remote, temporary: Path) -> None:
    _system(remote.url).get_file(remote.url, str(temporary))
    _check_whole(remote, temporary.stat().st_size)


def _check_whole(remote: Remote, size: int) -> None:
    """Raises ConnectionError if fewer or more bytes came than the file has, as far as is known."""
    if size != remote.size >= 0:
        raise ConnectionError(f"{size:,} of {remote.size:,} bytes came")


def fetch(remote: Remote, most: int) -> bytes:
    """Returns the content of a file in a listing, and keeps it, among at most `most` bytes of contents.

    Raises:
        HeadstartError: it has been changed or deleted since it was listed, may not be read, or cannot be reached.
    """
    key = hashlib.sha256(f"{remote.version}\0{remote.url}".encode()).hexdigest()
    path = _folder() / CONTENTS / key[:2] / key
    with suppress(OSError):
        kept = path.read_bytes()
        content, digest = kept[:-DIGEST], kept[-DIGEST:]
        # Neither fetching nor the disk is trusted: what is damaged is fetched again.
        if hashlib.sha256(content).digest() == digest:
            os.utime(path)
            return content
    content = _attempt(lambda: _content(remote), remote.url)
    with replacing(path) as temporary:
        temporary.write_bytes(content + hashlib.sha256(content).digest())
    _count(len(content), path, most)
    return content


def _content(remote: Remote) -> bytes:
    system = _system(remote.url)
    content = bytes(system.cat_file(remote.url))
    is_md5 = re.fullmatch(r"[0-9a-f]{32}", remote.version) is not None
    is_other = is_md5 and hashlib.md5(content, usedforsecurity=False).hexdigest() != remote.version
    # An ETag that looks like an MD5 need not be one, as where a bucket is encrypted with its owner's key.
    if (len(content) != remote.size or is_other) and _version(system.info(remote.url)) != remote.version:
        raise HeadstartError(f"{remote.url} has been changed since it was listed: start again")
    _check_whole(remote, len(content))
    return content


def _count(size: int, newest: Path, most: int) -> None:
    """Makes room whenever much has been written; looking at every file takes too long to do it each time."""
    global _written
    with _lock:
        _written += size
        is_due = _written > STEP * most
        _written = 0 if is_due else _written
    if is_due:
        _make_room(newest, most)


def _make_room(newest: Path, most: int) -> None:
    """Deletes contents and copies that were not used for longest; listings, which are small, stay."""
    copies = (record.with_name(record.name[1 : -len(VERSION)]) for record in _folder().rglob(f".*{VERSION}"))
    make_room([*_folder().glob(f"{CONTENTS}/*/*"), *copies], int((1 - STEP) * most), newest)


def _size(info: dict[str, Any]) -> int:
    size = info.get("size")
    return -1 if size is None else int(size)


def _version(info: dict[str, Any]) -> str:
    """Returns what changes with the content of a file, whatever its storage calls it; "" if it has nothing."""
    names = ("ETag", "etag", "md5Hash", "generation", "blob_id", "LastModified", "last_modified", "mtime", "created")
    return next((str(info[name]).strip('"') for name in names if info.get(name)), "")


def _system(url: str) -> Any:
    """Returns the file system of a URL, one per process and protocol."""
    protocol = url.partition("://")[0]
    key = os.getpid(), protocol
    with _lock:
        if key not in _systems:
            # Imported here because most commands have nothing to do with it.
            import fsspec  # type: ignore[import-untyped]

            system = fsspec.filesystem(
                protocol, skip_instance_cache=True, use_listings_cache=False, **_options(protocol)
            )
            # s3fs would try five times whatever is tried again here. What libraries log, the sentence says.
            system.retries = 1
            logging.getLogger(PACKAGES.get(protocol, protocol)).setLevel(logging.CRITICAL)
            _systems[key] = system
        return _systems[key]


def _options(protocol: str) -> dict[str, Any]:
    """Returns what a file system is opened with: timeouts, and no requests that are not needed."""
    if protocol == "s3":
        config = {"connect_timeout": SILENCE, "read_timeout": SILENCE, "retries": {"total_max_attempts": 1}}
        # Several requests for one object would begin with one for its size.
        return {"config_kwargs": config, "max_concurrency": 1}
    if protocol in WEB:
        from aiohttp import ClientTimeout

        return {"client_kwargs": {"timeout": ClientTimeout(total=None, connect=SILENCE, sock_read=SILENCE)}}
    return {}


def _attempt(operation: Callable[[], Result], url: str) -> Result:
    """Returns `operation()`, tried again while it fails for a reason that may pass.

    Raises:
        HeadstartError: it failed for another reason, or too often.
    """
    # gcsfs does not let itself be told to try once, and takes half a minute.
    for wait in (*(WAITS[:1] if url.startswith("gs:") else WAITS), None):
        try:
            return operation()
        except HeadstartError:
            raise
        # Every back end has exceptions of its own.
        except Exception as caught:
            error = _reason(caught)
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            if wait is None or not _may_pass(error):
                raise HeadstartError(_sentence(error, url)) from None
            time.sleep(wait)
    raise AssertionError("unreachable")


def _reason(error: Exception) -> Exception:
    """The error itself; of a web server that cannot be reached, for which fsspec says that there is no file, why."""
    cause = error.__cause__
    is_of_web = isinstance(cause, Exception) and type(cause).__module__.startswith("aiohttp")
    return cause if isinstance(cause, Exception) and is_of_web else error


def _status(error: Exception) -> int:
    """Returns the HTTP status that an error of aiohttp, gcsfs or huggingface_hub is about; 0: none."""
    of_google = getattr(error, "code", 0) if type(error).__module__.startswith("gcsfs") else 0
    status = getattr(error, "status", getattr(getattr(error, "response", None), "status_code", of_google))
    return status if isinstance(status, int) else 0


def _may_pass(error: Exception) -> bool:
    is_refused = 400 <= _status(error) < 500 and _status(error) not in PASSING
    is_ours = isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, ImportError, ValueError))
    return not is_refused and not is_ours and "Credential" not in type(error).__name__


def _sentence(error: Exception, url: str) -> str:
    protocol = url.partition("://")[0]
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError) and (package := PACKAGES.get(protocol)):
        return f"{url} needs {package}, which is not installed: python -m pip install {package}"
    if isinstance(error, FileNotFoundError) or _status(error) == 404:
        return f"{url} does not exist"
    if isinstance(error, PermissionError) or _status(error) in (401, 403) or "Credential" in type(error).__name__:
        package = PACKAGES.get(protocol, "its library")
        return f"{url} may not be read: give {package} credentials that may, in the way that it documents ({reason})"
    if not _may_pass(error):
        return f"{url} cannot be read: {reason}"
    return f"{url} cannot be reached ({reason}): start again later, what was fetched is kept"
