"""Images inside ZIP and TAR files, read as if they lay in a folder."""

import bz2
import errno
import multiprocessing
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, NamedTuple

from headstart.errors import HeadstartError
from headstart.files import ForkSafeLock
from headstart.log import log
from headstart.text import MOST_NAMES, plausible

# The files in a zip or tar archive, and their contents, which are read in place: nothing is unpacked or written.


ZIP_STARTS = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
# How files start that are compressed as a whole, which rules out random access, and archives that Python cannot read.
COMPRESSED_STARTS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
OTHER_STARTS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR"}
BLOCK = 512  # bytes, of a tar
ENCRYPTED, IS_UTF8 = 0x1, 0x800  # flags of a file in a zip
WINDOWS = 0  # the system on which a file was put into a zip
LONGEST_PATH = 4096  # bytes, of the target of a link
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


class Link(NamedTuple):
    """A symbolic link."""

    target: str


class Special(NamedTuple):
    """Neither a file nor a folder nor a link, such as a device."""


class Directory(NamedTuple):
    """A folder, which may be empty."""


Item = Member | Link | Special | Directory


def kind_of(start: bytes) -> str | None:
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


def members_of(path: str, file: IO[bytes]) -> Iterator[tuple[str, Item]]:
    """Everything in the archive `path`, by name.

    Raises:
        HeadstartError: it is damaged or incomplete, or cannot be read in place.
    """
    kind = kind_of(file.read(BLOCK))
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


def read_member(file: IO[bytes], member: Member) -> bytes:
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
    """At most as many bytes as it is said to have."""
    if member.method in (None, zipfile.ZIP_STORED) or not member.size:
        return content[: member.size]
    if member.method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size)
    return bz2.BZ2Decompressor().decompress(content, member.size)


def _in_zip(path: str, file: IO[bytes]) -> Iterator[tuple[str, Item]]:
    with zipfile.ZipFile(file) as archive:
        encoding = _zip_encoding(path, archive.infolist())
        for info in archive.infolist():
            name = _zip_name(info, encoding)
            if info.flag_bits & ENCRYPTED:
                raise HeadstartError(f"{path} is encrypted: make a zip or tar archive without a password")
            if info.compress_type not in METHODS:
                method = zipfile.compressor_names.get(info.compress_type, info.compress_type)  # type: ignore[attr-defined]
                raise HeadstartError(
                    f"{path} is compressed with a method that cannot be read ({method}, of {name}): make a zip with "
                    "the usual one, deflate, or a tar archive"
                )
            if name.endswith("/"):
                yield name, Directory()
            elif stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= LONGEST_PATH:
                yield name, Link(os.fsdecode(archive.read(info)))
            else:
                size = info.compress_size, info.file_size
                yield name, Member(info.header_offset, *size, info.compress_type, info.CRC)


def _zip_encoding(path: str, infos: list[zipfile.ZipInfo]) -> str:
    """The encoding of the names of which the archive does not say that they are UTF-8, and which are not.

    By the format it is cp437, but programs on Windows use the encoding of the country.
    """
    names = sorted({raw for info in infos if (raw := _raw_name(info)) is not None and not _is_utf_8(raw)})
    if not names:
        return "cp437"
    parts = sorted({part for name in names for part in name.split(b"/") if not part.isascii()})
    encodings = [encoding for encoding, _ in plausible(b"\n".join(parts[:MOST_NAMES])) if _are_in(names, encoding)]
    encoding = (*encodings, "cp437")[0]
    if multiprocessing.parent_process() is None:
        name = max(parts, key=len).decode(encoding, "replace")
        log.info("%s: names that are not UTF-8 are read as %s, such as '%s'", path, encoding, name)
    return encoding


def _zip_name(info: zipfile.ZipInfo, encoding: str) -> str:
    """Its name, in UTF-8 where the archive does not say so but it is, as in those of macOS."""
    raw = _raw_name(info)
    name = raw.decode("utf-8" if _is_utf_8(raw) else encoding) if raw is not None else info.filename
    # Some programs on Windows write backslashes, which the format does not allow.
    return name.replace("\\", "/") if info.create_system == WINDOWS else name


def _raw_name(info: zipfile.ZipInfo) -> bytes | None:
    """The bytes of its name; None: Python knows what they mean."""
    if info.flag_bits & IS_UTF8 or info.filename.isascii():
        return None
    try:
        return info.filename.encode("cp437")
    except UnicodeEncodeError:
        # It is from a field for names in Unicode.
        return None


def _is_utf_8(name: bytes) -> bool:
    return _are_in([name], "utf-8")


def _are_in(names: list[bytes], encoding: str) -> bool:
    try:
        b"\n".join(names).decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _in_tar(path: str, file: IO[bytes]) -> Iterator[tuple[str, Item]]:
    file.seek(0)
    known: dict[str, Item] = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            item: Item = Special()
            if info.isdir():
                item = Directory()
            elif info.isreg() and not info.issparse():
                item = Member(info.offset_data, info.size, info.size)
            elif info.issym():
                item = Link(info.linkname)
            elif info.islnk():
                item = known.get(info.linkname, Link(""))
            known[info.name] = item
            yield info.name, item
        # Python ends at a damaged header, and at the end of the file, as if the archive ended there.
        file.seek(archive.offset)
        if file.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"no end, but something else at byte {archive.offset}")


# The folders in a zip or tar archive. As when it is unpacked: of several files with one name, the last one counts;
# "/" at the start of a name, and "." and ".." in it, are left out.


MOST_LINKS = 40  # on the way to a file, as on Linux
Tree = dict[str, "Tree | Member | Link | Special"]
Node = Tree | Member | Link | Special


@dataclass(frozen=True)
class Entry:
    """Something in a folder, as an os.DirEntry. `node` is what a link leads to; None: it leads nowhere."""

    name: str
    node: Node | None
    is_link: bool

    def is_dir(self) -> bool:
        """Whether it is a folder, or a link to one."""
        return isinstance(self.node, dict)

    def is_file(self) -> bool:
        """Whether it is a file, or a link to one."""
        return isinstance(self.node, Member)

    def is_symlink(self) -> bool:
        """Whether it is a link."""
        return self.is_link


class Archive:
    """The archive at `path`. Its list of files is read once; it is opened for each file, so that any process and any
    thread can read it.

    Raises:
        HeadstartError: it is damaged or incomplete, or cannot be read in place.
        OSError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            self.stamp = _stamp(os.fstat(file.fileno()))
            self._top = _tree(members_of(path, file))

    @property
    def is_current(self) -> bool:
        """Whether the archive is still the one whose files are listed."""
        return self.stamp == _stamp(os.stat(self.path))

    def has(self, inner: str) -> bool:
        """Whether there is something at the path `inner` in the archive, if only a broken link."""
        above, _, name = inner.strip("/").rpartition("/")
        folder = self.node(above)
        return not name or (isinstance(folder, dict) and name in folder)

    def node(self, inner: str) -> Node | None:
        """What a path in the archive leads to; None: it leads nowhere."""
        try:
            return self._find(inner)[1]
        except OSError:
            return None

    def real(self, inner: str) -> str:
        """A path in the archive without the links on it, as far as they lead somewhere."""
        try:
            return self._find(inner)[0]
        except OSError:
            return inner

    def entries(self, inner: str) -> list[Entry]:
        """What is in a folder, by name.

        Raises:
            OSError: there is no such folder.
        """
        _, folder = self._find(inner)
        if not isinstance(folder, dict):
            raise _error(errno.ENOTDIR)
        return [self._entry(inner, name, node) for name, node in sorted(folder.items())]

    def read(self, inner: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: there is no such file, or it is damaged, or the archive has been changed.
        """
        _, member = self._find(inner)
        if not isinstance(member, Member):
            raise _error(errno.EISDIR if isinstance(member, dict) else errno.EINVAL)
        with open(self.path, "rb") as file:
            if _stamp(os.fstat(file.fileno())) != self.stamp:
                raise OSError(errno.ESTALE, f"{self.path} has been changed since its files were listed: start again")
            return read_member(file, member)

    def _entry(self, folder: str, name: str, node: Node) -> Entry:
        is_link = isinstance(node, Link)
        return Entry(name, self.node(f"{folder}/{name}") if is_link else node, is_link)

    def _find(self, inner: str) -> tuple[str, Node]:
        """The real path of what is at a path, and the thing itself."""
        waiting, way, links = inner.split("/"), list[str](), 0
        while waiting:
            part = waiting.pop(0)
            if part == "..":
                if not way:
                    raise _error(errno.ENOENT)
                way.pop()
            elif part not in ("", "."):
                way.append(part)
                node = self._at(way)
                if isinstance(node, Link):
                    links += 1
                    if links > MOST_LINKS or not node.target or node.target.startswith("/"):
                        raise _error(errno.ELOOP if links > MOST_LINKS else errno.ENOENT)
                    way.pop()
                    waiting = [*node.target.split("/"), *waiting]
        return "/".join(way), self._at(way)

    def _at(self, way: Iterable[str]) -> Node:
        node: Node = self._top
        for part in way:
            if not isinstance(node, dict) or part not in node:
                raise _error(errno.ENOENT)
            node = node[part]
        return node


class _Opened:
    """The archives that this process has listed, by path."""

    def __init__(self) -> None:
        self._archives: dict[str, Archive] = {}
        self._lock = ForkSafeLock()

    def known(self, path: str) -> Archive:
        """The archive as it was listed last."""
        found = self._archives.get(path)
        return self.current(path) if found is None else found

    def current(self, path: str) -> Archive:
        """The archive, listed again if it has been changed."""
        with self._lock:
            if path not in self._archives or not self._archives[path].is_current:
                self._archives.pop(path, None)
                self._archives[path] = Archive(path)
            return self._archives[path]

    def __contains__(self, path: str) -> bool:
        return path in self._archives


OPENED = _Opened()


def is_archive(path: str) -> bool:
    """Whether a file is an archive, by its content, also one that cannot be read in place."""
    try:
        with open(path, "rb") as file:
            return kind_of(file.read(BLOCK)) is not None
    except OSError:
        return False


def in_archive(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """The archive that a path leads to or into, and the path in it; None: it does not."""
    text = os.fspath(path)
    outer = text
    while outer:
        place = os.path.abspath(outer)
        if os.path.isfile(place):
            return (place, text[len(outer) :].strip("/")) if place in OPENED or is_archive(place) else None
        above = os.path.dirname(outer)
        if os.path.isdir(place) or above == outer:
            return None
        outer = above
    return None


def _tree(members: Iterable[tuple[str, Item]]) -> Tree:
    top: Tree = {}
    for name, item in members:
        *folders, last = [part for part in name.split("/") if part not in ("", ".", "..")] or [""]
        here = top
        for part in folders:
            below = here.get(part)
            # What is said to be a file, but has files in it, is a folder.
            if not isinstance(below, dict):
                below = here[part] = {}
            here = below
        if isinstance(item, Directory):
            if last and not isinstance(here.get(last), dict):
                here[last] = {}
        elif last and not isinstance(here.get(last), dict):
            here[last] = item
    return top


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
