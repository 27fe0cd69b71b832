"""Files with the same good pixels and metadata that are odd, damaged or missing."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL
from PIL import Image, TiffImagePlugin

from headstart.data.images import PNG_START

SIZE = (60, 40)
# A field of EXIF or TIFF: tag, type, count, value. Types: 2 text, 3 short, 4 long, 5 rational, 7 undefined.
Field = tuple[int, int, int, bytes]
X_RESOLUTION, RESOLUTION_UNIT, EXIF_FOLDER, GPS_FOLDER, MAKER = 0x11A, 0x128, 0x8769, 0x8825, 0x10F
INCHES: Field = (RESOLUTION_UNIT, 3, 1, b"\2\0\0\0")
FAR = struct.pack("<I", 99999)  # beyond the end of the file

# What may be wrong with EXIF whose orientation is 6.
FIELDS: dict[str, tuple[Field, ...]] = {
    "plain": (),
    "resolution as text": ((X_RESOLUTION, 2, 3, b"72\0"), INCHES),
    "resolution as empty text": ((X_RESOLUTION, 2, 0, b""), INCHES),
    "resolution twice": ((X_RESOLUTION, 5, 2, struct.pack("<4I", 72, 1, 72, 1)), INCHES),
    "resolution by zero": ((X_RESOLUTION, 5, 1, struct.pack("<2I", 72, 0)), INCHES),
    "resolution beyond the end": ((X_RESOLUTION, 5, 1, FAR), INCHES),
    "resolution undefined": ((X_RESOLUTION, 7, 4, b"abcd"), INCHES),
    "unit as text": ((X_RESOLUTION, 5, 1, struct.pack("<2I", 72, 1)), (RESOLUTION_UNIT, 2, 2, b"i\0")),
    "EXIF folder beyond the end": ((EXIF_FOLDER, 4, 1, FAR),),
    "GPS folder in the header": ((GPS_FOLDER, 4, 1, struct.pack("<I", 5)),),
}
# The first Pillow that reads on after a field that is larger than the file, and reads YCbCr in TIFF.
IS_PILLOW_13 = int(PIL.__version__.partition(".")[0]) >= 13
if IS_PILLOW_13:
    FIELDS["text of 4 GB"] = ((MAKER, 2, 0xFFFFFFFF, b"\0\0\0\0"),)


def good_image() -> Image.Image:
    """The upright image before it is rotated: smooth, so that a compressed one is close to it."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)


def exif(fields: tuple[Field, ...] = (), orientation: int = 6) -> bytes:
    """EXIF, byte by byte: Pillow writes none of the odd ones."""
    entries = sorted([(0x112, 3, 1, struct.pack("<HH", orientation, 0)), *fields])
    end = 8 + 2 + 12 * len(entries) + 4
    table, values = b"", b""
    for tag, kind, count, value in entries:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", end + len(values))
        values += value if len(value) > 4 else b""
        table += struct.pack("<HHI", tag, kind, count) + place
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + values


def saved(form: str, **options: Any) -> bytes:
    """The image in a format, without metadata."""
    content = io.BytesIO()
    good_image().save(content, form, quality=95, **options)
    return content.getvalue()


def with_exif(form: str, data: bytes) -> bytes:
    """The image in a format with `data` as EXIF."""
    if form == "JPEG":
        return jpeg(segment(0xE1, b"Exif\0\0" + data))
    if form == "PNG":
        return png(chunk(b"eXIf", data))
    return saved(form, exif=b"Exif\0\0" + data)


def jpeg(*segments: bytes) -> bytes:
    """A JPEG without a JFIF header (whose resolution Pillow would take), with more segments."""
    content = saved("JPEG")
    return content[:2] + b"".join(segments) + content[20:]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(data)) + data


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG with more chunks before and after its pixels."""
    content = saved("PNG")
    return content[:33] + before + content[33:-12] + after + content[-12:]


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    right = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", right if checksum is None else checksum)


def multi_picture(fields: tuple[Field, ...]) -> bytes:
    return segment(0xE2, b"MPF\0" + exif(fields))


def jpegs() -> Iterator[tuple[str, bytes]]:
    """JPEGs whose metadata are damaged."""
    yield "MPO garbage", jpeg(segment(0xE2, b"MPF\0garbage"))
    yield "MPO empty", jpeg(segment(0xE2, b"MPF\0"))
    one = struct.pack("<LLLHH", 0, 10, 0, 0, 0)
    yield "MPO of two, one missing", jpeg(multi_picture(((0xB001, 4, 1, b"\2\0\0\0"), (0xB002, 7, 16, one))))
    yield "MPO of two, none listed", jpeg(multi_picture(((0xB001, 4, 1, b"\2\0\0\0"),)))
    yield "MPO with a number as text", jpeg(multi_picture(((0xB001, 2, 4, b"two\0"),)))
    beyond = one + struct.pack("<LLLHH", 0, 10, 9999999, 0, 0)
    yield "MPO beyond the end", jpeg(multi_picture(((0xB001, 4, 1, b"\2\0\0\0"), (0xB002, 7, 32, beyond))))
    for name, data in {"empty": b"", "short": b"\1", "one of nine": b"\5\x09xx"}.items():
        yield f"ICC {name}", jpeg(segment(0xE2, b"ICC_PROFILE\0" + data))
    yield "JFIF short", jpeg(segment(0xE0, b"JFIF\0"))
    yield "Adobe short", jpeg(segment(0xEE, b"Adobe"))
    yield "Photoshop cut", jpeg(segment(0xED, b"Photoshop 3.0\0008BIM\x03"))
    yield "Photoshop resolution cut", jpeg(segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed\0\0\0\0\0\2ab"))
    yield "comment of markers", jpeg(segment(0xFE, b"\xff" * 99))
    yield "EXIF garbage", with_exif("JPEG", b"garbage")
    yield "EXIF empty", with_exif("JPEG", b"")
    yield "EXIF cut", with_exif("JPEG", exif()[:20])


def pngs() -> Iterator[tuple[str, bytes]]:
    """PNGs whose metadata are damaged, before the pixels or after."""
    bomb = zlib.compress(bytes(3 << 20))
    odd = {
        "wrong checksum of text": chunk(b"tEXt", b"a\0b", 1),
        "wrong checksum of resolution": chunk(b"pHYs", bytes(9), 1),
        "wrong checksum of an unknown chunk": chunk(b"abCd", b"x", 1),
        **{f"{kind.decode()} cut": chunk(kind, b"") for kind in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"acTL")},
        "ICC of another compression": chunk(b"iCCP", b"x\0\1abc"),
        "ICC garbage": chunk(b"iCCP", b"x\0\0abc"),
        "ICC of 3 MB": chunk(b"iCCP", b"x\0\0" + bomb),
        "text of another compression": chunk(b"zTXt", b"x\0\1abc"),
        "text of 3 MB": chunk(b"zTXt", b"x\0\0" + bomb),
        "international text of 3 MB": chunk(b"iTXt", b"x\0\1\0\0\0" + bomb),
        "EXIF as odd text": chunk(b"tEXt", b"Raw profile type exif\0zzzz\nxx\nyy\nqq"),
        "EXIF garbage": chunk(b"eXIf", b"garbage"),
    }
    for name, data in odd.items():
        yield name, png(data)
        yield f"{name}, after the pixels", png(after=data)


def tiffs(compression: str | None) -> Iterator[tuple[str, bytes]]:
    """TIFFs of orientation 6 whose metadata are damaged."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x112], tags[282], tags[283], tags[296], tags[270] = 6, 72.0, 72.0, 3, "hello you"
    tags.tagtype[700], tags[700] = 1, b"<x/>"
    content = io.BytesIO()
    good_image().save(content, "TIFF", tiffinfo=tags, compression=compression)
    plain = content.getvalue()
    yield "plain", plain
    yield "resolution as text", _changed(plain, 282, 2, 3, b"72\0\0")
    yield "XMP as numbers", _changed(plain, 700, 3, 2, b"abcd")
    yield "XMP as a number", _changed(plain, 700, 4, 1, b"abcd")
    yield "text beyond the end", _changed(plain, 270, 2, 99, FAR)
    yield "EXIF folder beyond the end", _changed(plain, 270, 4, 1, FAR, new_tag=EXIF_FOLDER)


def _changed(content: bytes, tag: int, kind: int, count: int, value: bytes, new_tag: int | None = None) -> bytes:
    """A little-endian TIFF with another field in place of `tag`."""
    changed = bytearray(content)
    (start,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, start)
    places = [start + 2 + 12 * i for i in range(entries)]
    (place,) = [at for at in places if struct.unpack_from("<H", content, at)[0] == tag]
    struct.pack_into("<HHI4s", changed, place, new_tag or tag, kind, count, value)
    return bytes(changed)


def deep_png(samples: np.ndarray[Any, np.dtype[np.uint16]]) -> bytes:
    """A PNG (H×W×3 or H×W×4) with 16 bits per channel, which Pillow does not write."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return PNG_START + b"".join(chunk(kind, data) for kind, data in parts)


def planar_tiff(samples: np.ndarray[Any, np.dtype[Any]]) -> bytes:
    """A TIFF (H×W×3, unsigned) whose channels are stored one after the other, which Pillow does not write."""
    height, width, channels = samples.shape
    planes = [np.ascontiguousarray(samples[..., channel]).tobytes() for channel in range(channels)]
    end = 8 + len(planes[0]) * channels
    starts, sizes = [8 + len(planes[0]) * channel for channel in range(channels)], [len(plane) for plane in planes]
    lists = struct.pack("<3H3I3I", *[8 * samples.itemsize] * 3, *starts, *sizes)
    # Tag, type, count, value or place; 3 is short, 4 long.
    fields = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, end), (259, 3, 1, 1), (262, 3, 1, 2)]
    fields += [(273, 4, 3, end + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 3, end + 18), (284, 3, 1, 2)]
    directory = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", *field) for field in fields) + bytes(4)
    return b"II*\0" + struct.pack("<I", end + len(lists)) + b"".join(planes) + lists + directory
