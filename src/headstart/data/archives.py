"""Images inside ZIP and TAR files, or in the listing of a remote folder, read as if they lay in a folder."""

import bz2
import errno
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from headstart import storage
from headstart.errors import HeadstartError
from headstart.files import ForkSafeLock
from headstart.storage import Listing, Remote

ZIP_STARTS = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
# How files start that are compressed as a whole, which rules out random access, and archives that Python cannot read.
COMPRESSED_STARTS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
OTHER_STARTS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR"}
BLOCK = 512  # bytes, of a tar
ENCRYPTED = 0x1  # flag of a file in a zip
WINDOWS = 0  # the system on which a file was put into a zip
LOCAL_HEADER = 30  # bytes before the name of a file in a zip
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
# Errors of Python's readers for damaged archives, and what they do not know.
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error),
    *(OSError, ValueError, EOFError, NotImplementedError),
)


class Member(NamedTuple):
    """A file: `stored` bytes from `start` on. In a zip, a header is before them, and they become `size` bytes."""

    start: int
    stored: int
    size: int
    method: int | None = None
    checksum: int | None = None


# Folders by name, files, and None for what is neither, such as a link.
Tree = dict[str, "Tree | Member | Remote | None"]


FILES = (Member, Remote)


class Entry(NamedTuple):
    """Something in a folder: a folder, a regular file, or neither. A link that may be followed is what it leads to."""

    name: str
    is_folder: bool
    is_file: bool
    is_link: bool = False


class Archive:
    """The archive, or listing, at `path`.

    Its list of files is read once; it is opened for each file, so that any process and any thread can read it.

    Raises:
        HeadstartError: it is damaged or incomplete, or cannot be read in place.
        OSError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            self.stamp = _stamp(os.fstat(file.fileno()))
            self._listing = _listing_in(file)
            self._top = _tree(self._listing.files.items() if self._listing else members_of(path, file))

    def node(self, inner: str) -> Tree | Member | Remote | None:
        """Returns the folder or the file at a path in the archive; None: there is neither."""
        node: Tree | Member | Remote | None = self._top
        for part in _parts(posixpath.normpath(inner)):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def entries(self, inner: str) -> list[Entry]:
        """Returns what is in a folder, by name.

        Raises:
            OSError: there is no such folder.
        """
        folder = self.node(inner)
        if not isinstance(folder, dict):
            raise _error(errno.ENOENT if folder is None else errno.ENOTDIR)
        return [Entry(name, isinstance(node, dict), isinstance(node, FILES)) for name, node in sorted(folder.items())]

    def read(self, inner: str) -> bytes:
        """Returns the content of a file.

        Raises:
            OSError: there is no such file, or it is damaged, or the archive has been changed.
            HeadstartError: it is remote and cannot be fetched.
        """
        member = self.node(inner)
        if isinstance(member, Remote) and self._listing is not None:
            return storage.fetch(member, self._listing.most)
        if not isinstance(member, Member):
            raise _error(errno.ENOENT if member is None else errno.EISDIR)
        with open(self.path, "rb") as file:
            if _stamp(os.fstat(file.fileno())) != self.stamp:
                raise OSError(errno.ESTALE, f"{self.path} has been changed since its files were listed: start again")
            return _read_member(file, member)


def _listing_in(file: IO[bytes]) -> Listing | None:
    """The listing of a remote folder that a file is; None: it is none."""
    is_one = storage.is_listing(file.read(BLOCK))
    file.seek(0)
    return storage.read_listing(file) if is_one else None


# The archives that this process has listed, by path.
_listed: dict[str, Archive] = {}
_lock = ForkSafeLock()


def open_archive(path: str, *, as_listed: bool = False) -> Archive:
    """Returns the archive at `path`, listed again if it has been changed, unless `as_listed`."""
    with _lock:
        archive = _listed.get(path)
        if archive is None or not (as_listed or archive.stamp == _stamp(os.stat(path))):
            _listed.pop(path, None)
            archive = _listed[path] = Archive(path)
        return archive


def is_archive(path: str) -> bool:
    """Whether a file is an archive, by its content, also one that cannot be read in place."""
    try:
        with open(path, "rb") as file:
            start = file.read(BLOCK)
            return storage.is_listing(start) or _kind_of(start) is not None
    except OSError:
        return False


def in_archive(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Returns the archive that a path leads to or into, and the path in it; None: it does not."""
    text = os.fspath(path)
    outer = text
    while outer:
        place = os.path.abspath(outer)
        if os.path.isfile(place):
            return (place, text[len(outer) :].strip("/")) if place in _listed or is_archive(place) else None
        above = os.path.dirname(outer)
        if os.path.isdir(place) or above == outer:
            return None
        outer = above
    return None


def members_of(path: str, file: IO[bytes]) -> Iterator[tuple[str, Member | None]]:
    """Yields everything in the archive `path` by name; those of folders end with "/". Links have no member.

    Raises:
        HeadstartError: it is damaged or incomplete, or cannot be read in place.
    """
    kind = _kind_of(file.read(BLOCK))
    if kind in COMPRESSED_STARTS.values():
        raise HeadstartError(
            f"{path} is compressed as a whole ({kind}), so that single images cannot be read from it: decompress it to "
            "a tar archive, or make a zip archive"
        )
    if kind in OTHER_STARTS.values():
        raise HeadstartError(f"{path} is a {kind} archive, which cannot be read: unpack it, or make a zip archive")
    try:
        yield from (_in_zip if kind == "zip" else _in_tar)(path, file)
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HeadstartError(
            f"{path} is damaged, or not a complete {kind or 'zip or tar'} archive: copy or download it again ({reason})"
        ) from None


def _kind_of(start: bytes) -> str | None:
    """The kind of archive that begins with these BLOCK bytes: zip, tar, or another one; None: it is none."""
    if start.startswith(ZIP_STARTS):
        return "zip"
    for magic, kind in (COMPRESSED_STARTS | OTHER_STARTS).items():
        if start.startswith(magic):
            return kind
    try:
        tarfile.TarInfo.frombuf(start, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return None
    return "tar"


def _in_zip(path: str, file: IO[bytes]) -> Iterator[tuple[str, Member | None]]:
    for info in _opened_zip(file).infolist():
        # Some programs on Windows write backslashes, which the format does not allow.
        name = info.filename.replace("\\", "/") if info.create_system == WINDOWS else info.filename
        if info.flag_bits & ENCRYPTED:
            raise HeadstartError(f"{path} is encrypted: make a zip or tar archive without a password")
        if info.compress_type not in METHODS:
            method = zipfile.compressor_names.get(info.compress_type, info.compress_type)  # type: ignore[attr-defined]
            raise HeadstartError(
                f"{path} is compressed with a method that cannot be read ({method}, of {name}): make a zip with "
                "the usual one, deflate, or a tar archive"
            )
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        size = info.compress_size, info.file_size
        yield name, None if is_link else Member(info.header_offset, *size, info.compress_type, info.CRC)


def _opened_zip(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        # macOS writes UTF-8 without saying so.
        return zipfile.ZipFile(file, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(file)


def _in_tar(path: str, file: IO[bytes]) -> Iterator[tuple[str, Member | None]]:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            is_file = info.isreg() and not info.issparse()
            name = f"{info.name}/" if info.isdir() else info.name
            yield name, Member(info.offset_data, info.size, info.size) if is_file else None
        # Python ends at a damaged header, and at the end of the file, as if the archive ended there.
        file.seek(archive.offset)
        if file.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"no end, but something else at byte {archive.offset}")


def _read_member(file: IO[bytes], member: Member) -> bytes:
    """The content of a file in an archive.

    Raises:
        OSError: it is damaged.
    """
    try:
        file.seek(member.start)
        if member.method is not None:
            header = file.read(LOCAL_HEADER)
            name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
            file.seek(name + extra, os.SEEK_CUR)
        content = _decompressed(file.read(member.stored), member)
        is_whole = len(content) == member.size and (member.checksum is None or zlib.crc32(content) == member.checksum)
    except (zlib.error, OSError, EOFError):
        is_whole = False
    if not is_whole:
        raise OSError(0, "it is damaged in the archive")
    return content


def _decompressed(content: bytes, member: Member) -> bytes:
    """Decompresses a member, to at most as many bytes as it is said to have."""
    if member.method in (None, zipfile.ZIP_STORED) or not member.size:
        return content[: member.size]
    if member.method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size)
    return bz2.BZ2Decompressor().decompress(content, member.size)


def _tree(members: Iterable[tuple[str, Member | Remote | None]]) -> Tree:
    """The folders in an archive, as when it is unpacked.

    Of several files with one name, the last one counts; "/" at the start of a name, and "." and ".." in it, are left
    out. What is said to be a file, but has files in it, is a folder.
    """
    top: Tree = {}
    for name, member in members:
        *folders, last = [part for part in _parts(name) if part != ".."] or [""]
        if name.endswith("/"):
            folders, last = [*folders, last], ""
        here = top
        for part in filter(None, folders):
            below = here.get(part)
            if not isinstance(below, dict):
                below = here[part] = {}
            here = below
        if last and not isinstance(here.get(last), dict):
            here[last] = member
    return top


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
