"""Metadata of image files. The orientation is used; whatever else is in them or wrong with them never matters."""

import struct
import zlib
from contextlib import suppress

from PIL import ExifTags, Image

TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations that swap width and height.
TRANSPOSED = (5, 6, 7, 8)

PNG_START, PNG_HEADER_END = b"\x89PNG\r\n\x1a\n", 33
# Of TIFF: descriptions, resolution, EXIF, GPS, IPTC, XMP, ICC profile, Photoshop's and other private tags.
TIFF_TAGS = {*range(269, 273), 282, 283, 285, 296, 297, 305, 306, 315, 316, 700, *range(32768, 65536)}


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation (1 … 8) by which a loaded image must be rotated to be upright; 1 if unknown.

    Pillow loads some formats to find it, so that, before, this would hide what is wrong with the pixels.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    # Damaged metadata raise errors of many kinds.
    except Exception:
        return 1
    return int(value) if isinstance(value, int) and value in TURN else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image rotated by the value of an EXIF orientation."""
    return image.transpose(TURN[orientation]) if orientation in TURN else image


def without_metadata(content: bytes) -> bytes | None:
    """The same image file with the orientation as its only metadata; None if that is not known for its format.

    For files that Pillow does not open because of their metadata. What the pixels depend on is kept as it is.
    """
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content.startswith(PNG_START):
        return _png(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _webp(content)
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(content)
    if content[4:8] == b"ftyp":
        # An item that is not called Exif is not read; AVIF's own rotation is stored elsewhere.
        return content.replace(b"Exif\0", b"skip\0")
    if content[4:8] == b"jP  ":
        return _jpeg2000(content)
    return None


def _orientation_in(exif: bytes) -> int:
    with suppress(Exception):
        found = Image.Exif()
        found.load(exif)
        return int(found.get(ExifTags.Base.Orientation, 1))
    return 1


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def _jpeg(content: bytes) -> bytes:
    """The segments up to the first scan without comments and application data, except what tells the colour space."""
    kept, at, orientation = b"", 2, 1
    while at + 4 <= len(content) and content[at : at + 2] != b"\xff\xda":
        marker = content[at + 1]
        if content[at] != 0xFF or marker in (0x00, 0xFF):
            # Padding, or junk between segments.
            at += 1
            continue
        end = at + 2 if marker == 0x01 or 0xD0 <= marker <= 0xD8 else at + 2 + _uint(content[at + 2 : at + 4])
        segment, at = content[at:end], end
        is_jfif = marker == 0xE0 and len(segment) >= 16
        is_adobe = marker == 0xEE and len(segment) >= 14
        if is_jfif or is_adobe or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept += segment
        elif segment[4:10] == b"Exif\0\0":
            orientation = _orientation_in(segment[4:])
    exif = _exif(orientation)
    return b"\xff\xd8" + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + kept + content[at:]


def _png(content: bytes) -> bytes:
    """The critical chunks and transparency."""
    kept, at, orientation = PNG_START, len(PNG_START), 1
    while at + 8 <= len(content):
        kind, end = content[at + 4 : at + 8], at + 12 + _uint(content[at : at + 4])
        if kind[:1].isupper() or kind == b"tRNS":
            kept += content[at:end]
        elif kind == b"eXIf":
            orientation = _orientation_in(content[at + 8 : end - 4])
        at = end
    data = b"eXIf" + _exif(orientation).removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return kept[:PNG_HEADER_END] + chunk + kept[PNG_HEADER_END:]


def _webp(content: bytes) -> bytes:
    """The chunks of pixels; the header says that there is EXIF, but neither XMP nor an ICC profile."""
    kept, at, orientation = b"", 12, 1
    while at + 8 <= len(content):
        kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        chunk, at = content[at : at + 8 + size + size % 2], at + 8 + size + size % 2
        if kind == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~0x24 | 0x08]) + chunk[9:]
        if kind in (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept += chunk
        elif kind == b"EXIF":
            orientation = _orientation_in(chunk[8:])
    if kept.startswith(b"VP8X"):
        exif = _exif(orientation)
        kept += b"EXIF" + struct.pack("<I", len(exif)) + exif + bytes(len(exif) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(kept)) + b"WEBP" + kept


def _tiff(content: bytes) -> bytes:
    """The first image; its directory, shortened, stays where it is, so that a truncated file stays truncated."""
    order = "<" if content.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    first, end = start + 2, start + 2 + 12 * count
    entries = [content[at : at + 12] for at in range(first, end, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] not in TIFF_TAGS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:start] + directory.ljust(end + 4 - start, b"\0") + content[end + 4 :]


def _jpeg2000(content: bytes) -> bytes:
    """The boxes without resolution, XMP and the like."""
    kept, at = b"", 0
    while at + 8 <= len(content):
        size, kind = _uint(content[at : at + 4]), content[at + 4 : at + 8]
        if size < 8 or kind == b"jp2c":
            # The pixels, which are last and may have no length.
            return kept + content[at:]
        box, at = content[at : at + size], at + size
        if kind == b"jp2h":
            inner = _jpeg2000(box[8:])
            box = struct.pack(">I", 8 + len(inner)) + kind + inner
        if kind not in (b"res ", b"uuid", b"uinf", b"xml "):
            kept += box
    return kept


def _uint(field: bytes) -> int:
    return int.from_bytes(field, "big")
