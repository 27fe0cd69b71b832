"""The files in a zip or tar archive, and their contents, which are read in place: nothing is unpacked or written."""

import bz2
import multiprocessing
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from headstart.data.encodings import MOST_NAMES, plausible
from headstart.errors import HeadstartError
from headstart.log import log

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
