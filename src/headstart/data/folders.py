"""Folders and archives alike: which files there are, and which of them are images, by name and by content."""

import errno
import functools
import io
import mimetypes
import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

from headstart.data.archives import FILES, Entry, Member, Tree, in_archive, is_archive, open_archive
from headstart.errors import HeadstartError
from headstart.files import MARKER, is_visible
from headstart.log import tracked
from headstart.storage import AT_ONCE, Remote, is_remote
from headstart.text import counted

# An archive inside another one is a mere file.
Place = str | os.PathLike[str]


def read_file(path: Place) -> bytes:
    """Returns the content of a file, which may be in an archive: `images.zip/ant/1.jpg`.

    Raises:
        OSError: it cannot be read.
    """
    with open_file(path) as file:
        return file.read()


def size_of(path: Place) -> int:
    """Returns the number of bytes in a file, which is not read.

    Raises:
        OSError: there is none, or it is not a regular file: reading a pipe or a device may never end.
    """
    try:
        status = os.stat(path)
    except NotADirectoryError:
        member = _node(path, as_listed=True)
        return member.size if isinstance(member, FILES) else 0
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file, but a pipe, a socket or a device")
    return status.st_size


def open_file(path: Place) -> IO[bytes]:
    """Opens a file for reading.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return open(path, "rb")
    except NotADirectoryError:
        # A folder on the way to it is a file, perhaps an archive.
        if (place := in_archive(path)) is None:
            raise
        archive, inner = place
        return io.BytesIO(open_archive(archive, as_listed=True).read(inner))


def read_ahead(paths: Iterable[Path]) -> Iterator[Path]:
    """Yields `paths`; of those that are remote, the contents of the next ones are being fetched meanwhile.

    Raises:
        HeadstartError: a remote one cannot be fetched.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
        ahead: deque[tuple[Path, Future[bytes] | None]] = deque()
        try:
            for path in paths:
                ahead.append((path, pool.submit(read_file, path) if is_remote(path) else None))
                if len(ahead) > 2 * AT_ONCE:
                    yield _once_fetched(*ahead.popleft())
            while ahead:
                yield _once_fetched(*ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def fetch_all(paths: Sequence[Path]) -> None:
    """Fetches the contents of those that are remote, as `read_ahead` does, so that they are kept."""
    if remote := [path for path in paths if is_remote(path)]:
        deque(tracked(read_ahead(remote), "fetching images", len(remote)), maxlen=0)


def _once_fetched(path: Path, content: Future[bytes] | None) -> Path:
    # One that is not there is for the reader to judge.
    with suppress(OSError):
        if content is not None:
            content.result()
    return path


def list_folder(path: Place) -> list[Entry]:
    """Returns what is in a folder or an archive, sorted by name. An archive that has been changed is listed again.

    Raises:
        OSError: it cannot be read.
        HeadstartError: it is an archive that is damaged, or cannot be read in place.
    """
    try:
        with os.scandir(path) as entries:
            return sorted(Entry(e.name, _holds(e.is_dir), _holds(e.is_file), e.is_symlink()) for e in entries)
    except NotADirectoryError:
        if (place := in_archive(path)) is None:
            raise
        archive, inner = place
        return open_archive(archive).entries(inner)


def _holds(test: Callable[[], bool]) -> bool:
    """Whether a test of a file holds; False also if the file system cannot say."""
    try:
        return test()
    except OSError:
        return False


def exists(path: Place) -> bool:
    """Whether there is something at `path`."""
    return Path(path).exists() or _node(path) is not None


def is_folder(path: Place) -> bool:
    """Whether `path` is a folder, an archive, or a folder in one.

    Raises:
        HeadstartError: it is an archive that is damaged, or cannot be read in place.
    """
    return os.path.isdir(path) or isinstance(_node(path), dict)


def is_file(path: Place) -> bool:
    """Whether `path` is a file, but no archive, or a file in an archive."""
    if os.path.isfile(path):
        return not is_archive(os.fspath(path))
    return isinstance(_node(path), FILES)


def is_in_archive(path: Place) -> bool:
    """Whether `path` is an archive, or in one."""
    return in_archive(path) is not None


def _node(path: Place, *, as_listed: bool = False) -> Tree | Member | Remote | None:
    place = in_archive(path)
    return open_archive(place[0], as_listed=as_listed).node(place[1]) if place is not None else None


# Which files are images: by their extension, or by their content where the name does not say.

# Formats that Pillow recognizes but cannot decode by itself, or that are documents or video.
NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF")
# Formats that a file without an image extension may turn out to have: their first bytes are unmistakable …
BY_MAGIC = ("JPEG", "PNG", "GIF", "WEBP", "JPEG2000", "QOI", "PSD")
# … or at least the header is.
BY_HEADER = ("BMP", "TIFF", "PPM", "AVIF", "ICNS", "DDS", "FITS", "SGI", "SUN")
# Bytes of a file in an archive whose name does not say what it is, which is not unpacked to find it out.
LARGEST_MEMBER = 10**9
# What is not to be sniffed at: raw photos, whose preview Pillow would read, and what editors and downloads leave.
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw")
LEFTOVERS = (".bak", ".crdownload", ".download", ".old", ".orig", ".part", ".swp", ".tmp")
# Python's own table, not the operating system's, so that every machine reads the same files.
TYPES = mimetypes.MimeTypes()


def image_extensions() -> dict[str, str]:
    """Returns the format of each extension, in lower case with the dot, of images that Pillow can decode."""
    return _image_extensions(readable_formats())


@functools.cache
def _image_extensions(formats: tuple[str, ...]) -> dict[str, str]:
    # MPO files are opened as JPEG.
    readable = {*formats, "MPO"}
    return {extension: form for extension, form in Image.registered_extensions().items() if form in readable}


def readable_formats() -> tuple[str, ...]:
    """Returns the formats that Pillow can decode, in the order in which it tries them; plugins may add some later."""
    Image.init()
    return tuple(form for form in dict.fromkeys(Image.ID) if form not in NOT_DECODED)


def is_image_name(path: str | os.PathLike[str]) -> bool:
    """Whether the file name has an image extension. Hidden files (also macOS's "._x.jpg") do not count."""
    return _extension(path) in image_extensions() and is_visible(os.path.basename(path))


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a visible file is an image, damaged or not: by its extension, or by its content if it has none, or one
    that stands for nothing known."""
    extension = _extension(path)
    return extension in image_extensions() or (not _is_known(extension) and _has_image_content(path))


def _extension(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(path)[1].lower()


def _is_known(extension: str) -> bool:
    """Whether the extension is that of something else."""
    if extension.endswith("~") or extension in RAW + LEFTOVERS or extension in Image.registered_extensions():
        return True
    kind = TYPES.types_map[True].get(extension, "image/")
    return extension in TYPES.encodings_map or not (kind.startswith("image/") or kind == "application/octet-stream")


def _has_image_content(path: str | os.PathLike[str]) -> bool:
    Image.init()
    try:
        # One in an archive is read as a whole.
        if is_in_archive(path) and size_of(path) > LARGEST_MEMBER:
            return False
        with open_file(path) as file:
            start = file.read(16)
            accepts = (Image.OPEN[form][1] for form in BY_MAGIC if form in Image.OPEN)
            if any(accept is not None and accept(start) is True for accept in accepts):
                return True
            file.seek(0)
            with Image.open(file, formats=[form for form in BY_HEADER if form in Image.OPEN]):
                return True
    # Readers raise errors of many kinds for what they do not know.
    except Exception:
        return False


# What folders hold. Every real folder is visited once, whatever links lead to it, and whatever is left out is named.

# Prefix of the files that headstart itself keeps beside the images it generates.
OWN = ".headstart"
# Why something is left out, where its name does not say.
LOOP = "link to a folder above it"
BROKEN_LINK = "broken link"
NOT_A_FILE = "not a regular file"
SECOND_LINK = "second link to the same"
MADE = "folder made by headstart"
# Kinds of files that a summary names.
NAMED = 5


class _Content(NamedTuple):
    folders: list["Folder"]
    files: dict[str, bool]
    others: dict[str, str]
    error: str | None


class Folder:
    """A folder, which is read when it is first asked for what it holds. `above` are the real paths on the way to it."""

    def __init__(self, path: Path, above: tuple[str, ...] = (), *, is_link: bool = False) -> None:
        self.path = path
        self.is_link = is_link
        self.real = os.path.realpath(path)
        self._way = (*above, self.real)

    @property
    def folders(self) -> list["Folder"]:
        """The visible folders in it by name, also those that links lead to, but none that it is itself in."""
        return self._content.folders

    @property
    def files(self) -> dict[str, bool]:
        """The names of its visible files, and of each whether it is a link."""
        return self._content.files

    @cached_property
    def images(self) -> list[str]:
        """The names of its visible images, damaged or not."""
        return [name for name in self.files if is_image(self.path / name)]

    @cached_property
    def others(self) -> dict[str, str]:
        """The names of everything else in it, and of each why it is left out; "" if its name says it."""
        images = set(self.images)
        return self._content.others | {name: "" for name in self.files if name not in images}

    @cached_property
    def is_made(self) -> bool:
        """Whether headstart made it to write into."""
        try:
            return any(entry.name == MARKER for entry in self._entries)
        except OSError:
            return False

    @property
    def made(self) -> list[Path]:
        """The folders in it that headstart made."""
        return [self.path / name for name, reason in self._content.others.items() if reason == MADE]

    @property
    def holds_only_made(self) -> bool:
        """Whether folders that headstart made are all that is of interest in it, as in logs/."""
        return any(folder.made for folder in self.tree[0]) and not self.has_images

    @property
    def error(self) -> str | None:
        """Why it cannot be read."""
        return self._content.error

    @cached_property
    def tree(self) -> tuple[list["Folder"], dict[Path, str]]:
        """It and all folders below it, each real folder once, and the links that are left out: as `walk`."""
        return walk(self)

    @property
    def has_images(self) -> bool:
        """Whether there are images in it or below it."""
        return any(folder.images for folder in self.tree[0])

    @cached_property
    def _content(self) -> _Content:
        content = _Content([], {}, {}, None)
        try:
            for entry in self._entries:
                self._add(entry, content)
        except OSError as error:
            return content._replace(error=error.strerror or str(error))
        return content

    @cached_property
    def _entries(self) -> list[Entry]:
        return list_folder(self.path)

    def _add(self, entry: Entry, content: _Content) -> None:
        if entry.name.startswith(OWN):
            return
        if not is_visible(entry.name):
            content.others[entry.name] = ""
        elif entry.is_folder:
            below = Folder(self.path / entry.name, self._way, is_link=entry.is_link)
            if any(Path(real).is_relative_to(below.real) for real in self._way):
                content.others[entry.name] = LOOP
            elif below.is_made:
                content.others[entry.name] = MADE
            else:
                content.folders.append(below)
        # A link that leads nowhere is an image that cannot be read, if that is what it is called.
        elif entry.is_file or (entry.is_link and is_image_name(entry.name)):
            content.files[entry.name] = entry.is_link
        else:
            content.others[entry.name] = BROKEN_LINK if entry.is_link else NOT_A_FILE


def walk(*tops: Folder) -> tuple[list[Folder], dict[Path, str]]:
    """Returns `tops` and all folders below them by path, each real folder once, and the links that are left out."""
    folders: dict[str, Folder] = {}
    left_out: dict[Path, str] = {}
    waiting, links = list(tops), list[Folder]()
    while waiting or links:
        # Links last, so that what is left out is never the folder itself.
        folder = (waiting or links).pop()
        if folder.real in folders:
            left_out[folder.path] = SECOND_LINK
            continue
        folders[folder.real] = folder
        for below in folder.folders:
            (links if below.is_link else waiting).append(below)
    return sorted(folders.values(), key=lambda folder: folder.path), left_out


def open_folder(path: Path) -> Folder:
    """Opens the folder at `path`.

    Raises:
        HeadstartError: it cannot be read.
    """
    folder = Folder(path)
    if folder.error is not None:
        raise HeadstartError(f"the folder {path} cannot be read: {folder.error}")
    return folder


def left_out_summary(left_out: Mapping[str, str] | Mapping[Path, str]) -> str:
    """Returns such as "3 other files left out (.txt ×2, .DS_Store ×1); 1 folder that headstart made left out (logs)".

    `left_out` are paths, and why each of them is left out.
    """
    made = [str(path) for path, reason in left_out.items() if reason == MADE]
    rest = {str(path): reason for path, reason in left_out.items() if reason != MADE}
    folders = f"{counted(len(made), 'folder')} that headstart made left out ({listed(made)})" if made else ""
    return "; ".join(filter(None, [_files_summary(rest) if rest else "", folders]))


def _files_summary(left_out: Mapping[str, str]) -> str:
    kinds = Counter(reason or _kind(os.path.basename(path)) for path, reason in left_out.items())
    named = [f"{kind} ×{count}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
    if len(named) > NAMED:
        named[NAMED:] = [f"… and {len(named) - NAMED} more kind{'s' if len(named) > NAMED + 1 else ''}"]
    noun = "other" if any(reason.startswith("folder") for reason in left_out.values()) else "other file"
    return f"{len(left_out)} {noun}{'s' if len(left_out) > 1 else ''} left out ({', '.join(named)})"


def listed(names: Iterable[str], most: int = NAMED) -> str:
    """Returns "a, b and c"; of many names, the first ones and how many more."""
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[:most])}, … and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _kind(name: str) -> str:
    extension = os.path.splitext(name)[1]
    if not extension or is_visible(name):
        return extension or name
    return f"hidden {extension}" if name.startswith(".") else name
