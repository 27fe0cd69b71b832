"""sort=copy|link|move: puts images into folders named as their classes; sort=undo moves them back.

Nothing is ever overwritten, and an image has its whole content under one of its two names at any time, so that a sort
may be killed and started again. `move` is the only thing in headstart that touches the user's own files.
"""

import csv
import errno
import hashlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import has_magic
from pathlib import Path
from typing import Any, NamedTuple

from filelock import Timeout

from headstart.config.predict import LINK, MOVE, PredictSettings
from headstart.data.folders import exists, is_file, is_folder, is_in_archive, open_file, read_file, size_of
from headstart.errors import HeadstartError, listed
from headstart.files import TEMPORARY, exclusively, naming, unused_path, write_csv
from headstart.log import command, log, shown, tracked
from headstart.predict.sources import UNUSUAL, Prediction
from headstart.storage import local
from headstart.text import as_file_name, as_file_names, counted, on_one_line

DOUBTFUL, UNFAMILIAR = "_unsure", "_unfamiliar"
# Where sort=move writes what it does, before it does it.
UNDO_FILE = "undo.csv"
COLUMNS = ("from", "to", "moved")
YES, NO = "yes", "no"
# What else predict.py writes into the output.
OTHERS = ("predictions.csv", "predictions.jsonl", "annotated", "contact_sheets", "explained", "report")
# Why an image is not in its folder.
IS_LINK, GONE = "symbolic links are not moved", "they are gone"
IN_THE_WAY, ELSEWHERE = "another file has their name there", "an earlier sort put them into another folder there"
# Of os.link between two disks, of files of other users, and on file systems without hard links, such as exFAT.
NO_HARD_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
MOST_FOLDERS = 20  # listed with their counts


class Item(NamedTuple):
    """An image, and its place, relative to the output."""

    image: Path
    place: Path


# Puts an image at a place, unless a sort that was killed has done it. Raises FileExistsError if another file is there.
Put = Callable[[Path, Path], None]


class _Elsewhere(Exception):
    """An image is in another folder of the output."""


def check_sort(settings: PredictSettings, paths: list[Path]) -> None:
    """Raises HeadstartError, before anything is predicted, if the images at `paths` cannot be sorted as `sort` says."""
    output = os.path.realpath(str(settings.output))
    for folder in sorted({path.parent for path in paths}):
        if Path(os.path.realpath(folder)).is_relative_to(output):
            raise HeadstartError(f"output={settings.output} holds the images to sort, in {folder}: choose another one")
        if settings.sort in (LINK, MOVE) and is_in_archive(folder):
            raise HeadstartError(f"sort={settings.sort} needs files, not those of an archive ({folder}): sort=copy")
        if settings.sort == MOVE and not os.access(folder, os.W_OK | os.X_OK):
            raise HeadstartError(f"sort=move cannot take images out of {folder}, which is read-only: sort=copy")


def sort_images(rows: Sequence[Prediction], settings: PredictSettings, classes: Sequence[str]) -> None:
    """Puts the images of `rows` into the output's folders as `settings.sort` says, and logs what was done.

    Args:
        rows: predictions; images that could not be read stay where they are.
        classes: all classes of the model.

    Raises:
        HeadstartError: another process is sorting into the output.
        OSError: the disk is full, for example; the same command continues.
    """
    output, top, folders = Path(str(settings.output)), _top(settings.source), class_folders(classes)
    folder_of = {row.path.absolute(): _folder_of(row, folders) for row in rows if row.classes}
    links = {image for image in folder_of if settings.sort == MOVE and image.is_symlink()}
    items = [Item(image, Path(of, _below(image, top))) for image, of in folder_of.items() if image not in links]
    with _alone(output):
        if settings.sort == MOVE:
            _check_free(output)
            done = _move_all(items, output)
        else:
            done = _add_all(items, output, [DOUBTFUL, UNFAMILIAR, *folders.values()], is_link=settings.sort == LINK)
    _report(output, str(settings.sort), items, done, sorted(links), len(rows) - len(folder_of))


def continue_sort(settings: PredictSettings) -> bool:
    """Moves the rest of the images if a sort=move into the output was stopped; returns whether that was so.

    All of them have been predicted, and stand in predictions.csv, so that no model is needed.

    Raises:
        HeadstartError: a sort=move into the output is complete; or it was stopped, and `settings` are those of another.
    """
    output = Path(str(settings.output))
    moves = _read_moves(output)
    if all(moves.values()):
        _check_free(output)
        return False
    top = _top(settings.source)
    if settings.sort != MOVE or not all(item.image.is_relative_to(top) for item in moves):
        raise HeadstartError(
            f"output={output} holds a sort=move that was stopped: run its command again, or undo it "
            f"({_undo_command(output)}), or choose another folder, such as output={unused_path(output)}"
        )
    log.info("continuing a sort that was stopped: the images have been predicted")
    with _alone(output):
        done = _move_all(list(moves), output)
    _report(output, MOVE, list(moves), done)
    return True


def undo_sort(output: Path) -> None:
    """Moves the images that sort=move has put into `output` back to where they were.

    Raises:
        HeadstartError: there is nothing to undo, or another process is sorting into `output`.
    """
    moves = _read_moves(output)
    if not moves:
        raise HeadstartError(f"output={output} has no {UNDO_FILE}, which sort=move writes: there is nothing to undo")
    items = [item for item, moved in moves.items() if moved != NO]
    with _alone(output):
        done = [_put_back(item, output) for item in tracked(items, "undoing", len(items))]
        if not any(done):
            (output / UNDO_FILE).unlink()
    log.info("%d of %s moved back", done.count(None), counted(len(items), "image"))
    _warn(items, done)


# Where an image belongs.


def class_folders(classes: Sequence[str]) -> dict[str, str]:
    """Returns the name of each class's folder, which is its own whatever the classes are called."""
    return as_file_names(classes, (DOUBTFUL, UNFAMILIAR, UNDO_FILE, *OTHERS))


def _folder_of(row: Prediction, folders: dict[str, str]) -> str:
    if row.doubt is not None:
        return UNFAMILIAR if row.doubt == UNUSUAL else DOUBTFUL
    return folders[row.classes[0]]


def _top(source: Any) -> Path:
    """Returns the folder, or archive, of a source: the paths of its images below it are kept, and so differ."""
    if isinstance(source, list):
        return Path(os.path.commonpath([_top(one) for one in source]))
    # Not os.path.abspath: what ".." leads to after a link, only the system knows.
    path = local(source).absolute()
    if is_folder(path):
        return path
    return path.parent if is_file(path) else Path(*itertools.takewhile(lambda part: not has_magic(part), path.parts))


def _below(path: Path, top: Path) -> Path:
    """Returns the part of `path` below `top`; in that of several sources, ".." may be left, and becomes a name."""
    return Path(*(as_file_name(part) if part == ".." else part for part in path.relative_to(top).parts))


# All images, with what is recorded about them.


def _move_all(items: list[Item], output: Path) -> list[str | None]:
    """Moves images, which undo.csv records before and after; returns for each the reason why it was not moved."""
    if not items:
        return []
    _write_moves(items, [""] * len(items), output)
    done = _put_all(items, output, _move)
    _write_moves(items, [YES if reason is None else NO for reason in done], output)
    return done


def _add_all(items: list[Item], output: Path, folders: list[str], *, is_link: bool) -> list[str | None]:
    """Copies or links images that are in none of the output's `folders`; returns as `_move_all`."""
    put, is_there = (_link, _leads_to) if is_link else (_copy, _has_content_of)
    present = {of: {str(path.relative_to(output / of)) for path in (output / of).rglob("*")} for of in folders}

    def add(image: Path, place: Path) -> None:
        folder, *inner = place.relative_to(output).parts
        name = os.path.join(*inner)
        # People may have put it where it belongs.
        others = (output / of / name for of, names in present.items() if of != folder and name in names)
        if any(is_there(other, image) for other in others):
            raise _Elsewhere
        put(image, place)

    return _put_all(items, output, add)


def _put_all(items: list[Item], output: Path, put: Put) -> list[str | None]:
    try:
        return [_put(item.image, output / item.place, put) for item in tracked(items, "sorting", len(items))]
    except BaseException:
        log.warning("stopped while images were sorted into %s: the same command continues", shown(output))
        raise


def _put(image: Path, place: Path, put: Put) -> str | None:
    place.parent.mkdir(parents=True, exist_ok=True)
    # That of a sort which was killed.
    _temporary(place).unlink(missing_ok=True)
    try:
        put(image, place)
    except _Elsewhere:
        return ELSEWHERE
    except FileExistsError:
        return IN_THE_WAY
    except FileNotFoundError:
        if os.path.lexists(image) or exists(image):
            raise
        return GONE
    return None


def _put_back(item: Item, output: Path) -> str | None:
    """Moves an image to where it was, and removes the folders in the output that are empty then."""
    place = output / item.place
    # A copy that was stopped.
    _temporary(place).unlink(missing_ok=True)
    if not os.path.lexists(place):
        return None if os.path.lexists(item.image) else GONE
    reason = _put(place, item.image, _move)
    with suppress(OSError):
        for folder in itertools.takewhile(lambda folder: folder != output, place.parents):
            folder.rmdir()
    return reason


# One image.


def _move(image: Path, place: Path) -> None:
    """Gives a file another name, and then takes its first one away; between two disks, it is copied."""
    if not os.path.lexists(image) and os.path.lexists(place):
        return
    try:
        os.link(image, place, follow_symlinks=False)
    except FileExistsError:
        # Two ways to one name are not two names.
        is_same_name = image.name == place.name and image.parent.samefile(place.parent)
        if is_same_name or not _has_content_of(place, image):
            raise
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        _copy(image, place)
        _sync(place)
        _sync(place.parent)
    image.unlink(missing_ok=True)


def _link(image: Path, place: Path) -> None:
    try:
        place.symlink_to(image)
    except FileExistsError:
        if not _leads_to(place, image):
            raise


def _copy(image: Path, place: Path) -> None:
    """Copies a file, which may be in an archive, with its times and permissions; the copy is complete or not there."""
    if os.path.lexists(place):
        if _has_content_of(place, image):
            return
        raise FileExistsError
    temporary = _temporary(place)
    try:
        with naming(place):
            with open_file(image) as source, temporary.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            if not is_in_archive(image):
                shutil.copystat(image, temporary)
            _name(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def _name(temporary: Path, place: Path) -> None:
    """Gives a complete file its name, or raises FileExistsError if another file has it."""
    try:
        os.link(temporary, place)
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        # An empty file keeps others from taking the name.
        place.touch(exist_ok=False)
        temporary.replace(place)


def _sync(path: Path) -> None:
    """Has the system write a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(place: Path) -> Path:
    """Returns the name of an incomplete file, the same in each attempt; one of 255 bytes must not become too long."""
    digest = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:12]
    return place.with_name(f".{place.name[:50]}.{digest}{TEMPORARY}")


def _has_content_of(place: Path, image: Path) -> bool:
    """Whether `place` is a file, not a link to one, with the content of `image`."""
    if place.is_symlink() or not place.is_file():
        return False
    return place.stat().st_size == size_of(image) and place.read_bytes() == read_file(image)


def _leads_to(place: Path, image: Path) -> bool:
    return place.is_symlink() and os.readlink(place) == str(image)


# undo.csv: one row per image, written before the first one is moved. `moved` is empty until all of them are.


def _write_moves(items: list[Item], moved: list[str], output: Path) -> None:
    rows = ((item.image, item.place, says) for item, says in zip(items, moved, strict=True))
    write_csv(output / UNDO_FILE, COLUMNS, rows)
    _sync(output)


def _read_moves(output: Path) -> dict[Item, str]:
    """Returns the moves in undo.csv and what it says of them; none if there is no such file.

    Raises:
        HeadstartError: it is not as headstart has written it.
    """
    path = output / UNDO_FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *rows = [*csv.reader(file)] or [[]]
    # A place must be in the output, whoever has changed the file.
    if tuple(header) != COLUMNS or not all(len(row) == 3 and not {"..", "/"} & {*Path(row[1]).parts} for row in rows):
        raise HeadstartError(f"{path} is not as headstart has written it: restore it, or choose another output")
    return {Item(Path(image), Path(place)): moved for image, place, moved in rows}


def _check_free(output: Path) -> None:
    """Raises HeadstartError if images have been moved into `output`: its files say where they were."""
    if kept := sum(moved != NO for moved in _read_moves(output).values()):
        raise HeadstartError(
            f"output={output} keeps {counted(kept, 'image')} of a sort=move: choose another folder, such as "
            f"output={unused_path(output)}, or undo it: {_undo_command(output)}"
        )


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Lets one process at a time sort into `output`."""
    try:
        with exclusively(output).acquire(timeout=0):
            yield
    except Timeout:
        raise HeadstartError(f"another process is sorting images into output={output}") from None


# What is said about it.


def _undo_command(output: Path) -> str:
    return command("predict.py", ["sort=undo", f"output={shown(output)}"])


def _report(
    output: Path, mode: str, items: list[Item], done: list[str | None], links: Sequence[Path] = (), unreadable: int = 0
) -> None:
    """Logs how many images are in each folder, which are not and why, and how to undo it."""
    counts = Counter(item.place.parts[0] for item, reason in zip(items, done, strict=True) if reason is None)
    ordered = sorted(counts.items(), key=lambda item: (item[0] in (DOUBTFUL, UNFAMILIAR), item[0]))
    folders = listed((f"{on_one_line(name)} {count:,}" for name, count in ordered), MOST_FOLDERS)
    more = f"; unreadable {unreadable:,}" if unreadable else ""
    total = counted(len(items) + len(links) + unreadable, "image")
    log.info("sort=%s: %d of %s are in %s: %s%s", mode, counts.total(), total, shown(output), folders or "none", more)
    _warn(items, done, links)
    if mode == MOVE and counts:
        log.info("to undo it: %s", _undo_command(output))


def _warn(items: list[Item], done: list[str | None], links: Sequence[Path] = ()) -> None:
    """Warns about images that are not where they should be, by the reason."""
    left = dict.fromkeys(links, IS_LINK)
    left |= {item.image: reason for item, reason in zip(items, done, strict=True) if reason is not None}
    for reason in dict.fromkeys(left.values()):
        paths = [on_one_line(shown(path)) for path, why in left.items() if why == reason]
        log.warning("left as they are, because %s: %s: %s", reason, counted(len(paths), "image"), listed(paths, 3))
