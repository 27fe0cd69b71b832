"""The ten animals of Caltech-256, downloaded once and checked."""

import difflib
import hashlib
import http.client
import re
import shutil
import socket
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from headstart.config.data import CaltechSettings
from headstart.data.folders import OWN
from headstart.data.splits import split_class
from headstart.datasets import create_once
from headstart.errors import HeadstartError
from headstart.log import Advance, log, progress_bar, tracked
from headstart.machine import DISK_FULL

# Large files from the web: interrupted downloads resume, and files are verified before they are used.

BLOCK = 1 << 20  # bytes
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row without progress
PAUSE = 1.0  # seconds before the second attempt; doubled for each one after


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
        except (OSError, http.client.HTTPException) as error:
            if _is_of_the_disk(error):
                raise
            # An attempt that made progress is not a failure.
            failures = 1 if _size(part) > before else failures + 1
            reason = error.reason if type(error) is URLError else error
            if failures == ATTEMPTS or _is_permanent(reason):
                raise HeadstartError(f"{url} could not be downloaded: {reason}") from None
            time.sleep(PAUSE * 2 ** (failures - 1))
    try:
        check_md5(part, md5)
    except HeadstartError:
        # Resuming from here would give the same file again.
        part.unlink()
        raise
    part.replace(path)


def partial(path: Path) -> Path:
    """Returns the file for what there is of an interrupted download. A browser's own may be `path`.part."""
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
    start = _size(part)
    # Of a compressed response the bytes could not be counted.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            # Nothing is left; the checksum says whether it is the same file.
            return
        raise
    with response:
        resumes = response.status == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        part.parent.mkdir(parents=True, exist_ok=True)
        bar = _bar(f"downloading {part.stem.removeprefix(f'{OWN}-')}", int(length) if length else None)
        with part.open("ab" if resumes else "wb") as file, bar as advance:
            while block := response.read(BLOCK):
                file.write(block)
                advance(len(block))
    total = (start if resumes else 0) + int(length or 0)
    if _size(part) < total:
        raise ConnectionError(f"the connection was lost after {_size(part):,} of {total:,} bytes")


def _is_of_the_disk(error: Exception) -> bool:
    """Returns whether the error is that the file cannot be written."""
    if isinstance(error, URLError) or not isinstance(error, OSError):
        return False
    return error.errno in DISK_FULL or error.filename is not None


def _is_permanent(reason: object) -> bool:
    """Whether waiting a few seconds would not help: no such file or host, or no network."""
    if isinstance(reason, HTTPError):
        return reason.code < http.HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(reason, socket.gaierror | ConnectionRefusedError)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _bar(text: str, total: int | None) -> AbstractContextManager[Advance]:
    return progress_bar(text, total, unit="B")


# Caltech-256 as split folders, extracted from its archive.

ARCHIVE = "256_ObjectCategories.tar"
PAGE = "https://data.caltech.edu/records/nyy15-4j048"
# Not a category but a collection of other images.
CLUTTER = "clutter"
# 256_ObjectCategories/134.llama-101/134_0042.jpg; not strays such as 198.spider/RENAME2, nor names that would lead out
# of a folder.
IMAGE = re.compile(r"(?:\./)?256_ObjectCategories/\d{3}\.([A-Za-z0-9][A-Za-z0-9_-]*)/(\d{3}_\d{4}\.jpg)")
SUFFIX = "-101"


def make_caltech(settings: CaltechSettings, seed: int) -> None:
    """Creates root/{train,valid,test}/<class>/*.jpg unless it exists. `seed` is of splits by fractions.

    Raises:
        HeadstartError: the archive could not be downloaded, is damaged, or the folder holds something else.
    """
    options = {"categories": settings.categories}
    create_once(
        settings, seed, "Caltech-256", options, lambda folder: _write(folder, _archive(settings), settings, seed)
    )


def _archive(settings: CaltechSettings) -> Path:
    """The archive, verified: the one in the settings, the one beside the root, or else a download to there."""
    beside = Path(settings.root).parent / ARCHIVE
    path = Path(settings.archive).expanduser() if settings.archive is not None else beside
    if path.is_file():
        check_md5(path, settings.archive_md5)
        return path
    if settings.archive is not None:
        raise HeadstartError(f"data.archive={settings.archive} does not exist: give the file {ARCHIVE}")
    log.info("downloading %s to %s (1.2 GB; kept, but may be deleted)", settings.url, path)
    try:
        fetch(settings.url, path, settings.archive_md5)
    except HeadstartError as error:
        raise HeadstartError(
            f"{error}; run again to resume, or get {ARCHIVE} (1.2 GB) from {PAGE} and put it at {path.resolve()}, "
            "or set data.archive=FILE"
        ) from None
    return path


def _write(folder: Path, archive: Path, settings: CaltechSettings, seed: int) -> dict[str, Any]:
    try:
        with tarfile.open(archive, "r:") as tar:
            places = _places(_images(tar, archive), settings, seed)
            for place, member in tracked(places.items(), "extracting images", len(places)):
                _extract(tar, member, folder / place)
    except tarfile.TarError as error:
        raise HeadstartError(f"{archive} is damaged, or not a tar archive: {error}") from None
    return {"archive": archive.name, "counts": Counter(place.partition("/")[0] for place in places)}


def _images(tar: tarfile.TarFile, archive: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The members that are images, by class and file name."""
    images: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        match = IMAGE.fullmatch(member.name)
        if match and member.isreg():
            name, file = match.groups()
            images.setdefault(name.removesuffix(SUFFIX), {})[file] = member
    if not images:
        raise HeadstartError(f"{archive} holds no images of Caltech-256")
    return images


def _places(
    images: dict[str, dict[str, tarfile.TarInfo]], settings: CaltechSettings, seed: int
) -> dict[str, tarfile.TarInfo]:
    """Where each image goes: "train/llama/134_0001.jpg"."""
    train, valid = settings.split.train, settings.split.valid
    places: dict[str, tarfile.TarInfo] = {}
    for name in sorted(_chosen(list(images), settings.categories)):
        parts = split_class(list(images[name]), train, valid, seed=seed, class_name=name)
        places |= {f"{split}/{name}/{file}": images[name][file] for split, files in parts.items() for file in files}
    return places


def _chosen(names: list[str], categories: list[str] | None) -> Iterator[str]:
    if categories is None:
        yield from (name for name in names if name != CLUTTER)
        return
    for name in categories:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise HeadstartError(f"data.categories: Caltech-256 has no category '{name}': did you mean '{near[0]}'?")
        yield name


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    if content is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file)
    if path.stat().st_size != member.size:
        raise tarfile.ReadError(f"{member.name} is truncated")
