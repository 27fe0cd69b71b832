"""Caltech-256 as split folders, extracted from its archive."""

import difflib
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headstart.config.data import CaltechSettings
from headstart.data.splits import split_class
from headstart.datasets.download import check_md5, fetch
from headstart.datasets.generate import create_once
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.progress import tracked

ARCHIVE = "256_ObjectCategories.tar"
PAGE = "https://data.caltech.edu/records/nyy15-4j048"
PUBLISHED_MD5 = "67b4f42ca05d46448c6bb8ecd2220f6d"
# Not a category but a collection of other images.
CLUTTER = "clutter"
# Images per split in the recipe: ten animals, 60 and 10 of each.
RECIPE = ["bear", "chimp", "giraffe", "gorilla", "llama", "ostrich", "porcupine", "skunk", "triceratops", "zebra"]
RECIPE_COUNTS = {"train": 600, "valid": 100, "test": 409}
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
            counts = Counter(place.partition("/")[0] for place in places)
            _check_counts(counts, settings)
            for place, member in tracked(places.items(), "extracting images", len(places)):
                _extract(tar, member, folder / place)
    except tarfile.TarError as error:
        raise HeadstartError(f"{archive} is damaged, or not a tar archive: {error}") from None
    return {"archive": archive.name, "counts": counts}


def _images(tar: tarfile.TarFile, archive: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The members that are images, by class and file name."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        match = IMAGE.fullmatch(member.name)
        if match and member.isreg():
            name, file = match.groups()
            found.setdefault(name.removesuffix(SUFFIX), {})[file] = member
    if not found:
        raise HeadstartError(f"{archive} holds no images of Caltech-256")
    return found


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


def _check_counts(counts: Counter[str], settings: CaltechSettings) -> None:
    is_recipe = settings.archive_md5 == PUBLISHED_MD5 and settings.categories == RECIPE
    if is_recipe and (settings.split.train, settings.split.valid) == (60, 10) and counts != RECIPE_COUNTS:
        raise HeadstartError(f"the archive gives {dict(counts)} images, not {RECIPE_COUNTS}")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    if content is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    with content, path.open("wb") as file:
        shutil.copyfileobj(content, file)
    if path.stat().st_size != member.size:
        raise tarfile.ReadError(f"{member.name} is truncated")
