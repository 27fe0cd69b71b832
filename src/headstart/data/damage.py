"""Damage that decodes: a copy that broke off leaves zeros, of which many formats make pixels without an error."""

import zlib
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from headstart.data.images import decode, within_limit
from headstart.data.metadata import PNG_START, without_metadata
from headstart.errors import UnreadableImage

# The least share of a file, or of an image's rows, that counts: a run of one byte, or of one gray.
RUN = 1 / 8
# What a file system, a download or a camera's card leaves where nothing was written.
FILLINGS = (0x00, 0xFF)
# So many bytes of a padded file's padding may belong to the image.
PADDING = 64
# An uncompressed image with more of the same outside the run than this is one with a black or white background.
BACKGROUND = 0.1
# Of a compressed image, if this share has one colour, long runs are how it is encoded.
UNIFORM = 0.5
# Formats whose pixels have no checksum. A GIF that is damaged does not decode.
UNCHECKED = ("AVIF", "JPEG", "JPEG2000", "MPO", "WEBP")
# What libjpeg fills in where the data end, give or take two levels.
GRAY = 128
Array = np.ndarray[Any, np.dtype[Any]]


def damage_of(content: bytes, dominant: float) -> str:
    """What is damaged in an image file that decodes, or may be; "" if nothing seems to be.

    `dominant` is the share of its pixels that have the most frequent colour.
    """
    if content.startswith(PNG_START) and not _has_checksums(content):
        return "the checksum of its pixels is wrong"
    for byte in FILLINGS:
        start, end = _longest_run(content, byte)
        if end - start >= RUN * len(content) and _is_damage(_bare(content), byte, dominant):
            return f"{(end - start) / len(content):.0%} of the file, from byte {start:,} on, are all {byte}"
    return ""


def gray_rows(grid: Array) -> float:
    """The share of the rows at the bottom of an RGB image (H, W, 3) that are of the gray of missing JPEG data.

    0 if it is too small to count, or there is as much of the same gray elsewhere.
    """
    is_gray: Array = (np.abs(grid.astype(int) - GRAY) <= 2).all(axis=2)
    rows = len(grid) - int(np.flatnonzero(~is_gray.all(1)).max(initial=-1)) - 1
    above = is_gray[: len(grid) - rows]
    return rows / len(grid) if rows >= RUN * len(grid) and above.size and above.mean() < BACKGROUND else 0.0


def _longest_run(content: bytes, byte: int) -> tuple[int, int]:
    """Start and end of the longest run of a byte among those of at least RUN of the content."""
    longest, fill = (0, 0), bytes([byte])
    # Each such run has one of these places in it.
    for place in range(0, len(content), max(1, int(len(content) * RUN / 2))):
        if content[place] == byte and place >= longest[1]:
            after = content[place:]
            found = len(content[:place].rstrip(fill)), place + len(after) - len(after.lstrip(fill))
            longest = max(longest, found, key=lambda run: run[1] - run[0])
    return longest


def _is_damage(content: bytes, byte: int, dominant: float) -> bool:
    """Whether a long run of one byte cannot be the image itself, nor something beside it."""
    start, end = _longest_run(content, byte)
    if end - start < RUN * len(content) or (end == len(content) and _decodes(content[: start + PADDING])):
        return False
    form, is_raw = decode("", content, _form_of)
    if form in UNCHECKED:
        return end == len(content) or dominant < UNIFORM
    # Four in a row, because a channel alone may be empty, or opaque.
    same = 4 * content.count(bytes([byte]) * 4) - (end - start)
    return same < BACKGROUND * (len(content) - (end - start)) if is_raw else end == len(content)


def _form_of(image: Image.Image) -> tuple[str | None, bool]:
    """The format, and whether the pixels are not compressed."""
    return image.format, isinstance(image, ImageFile) and any(tile.codec_name == "raw" for tile in image.tile)


def _decodes(content: bytes) -> bool:
    try:
        decode("", content, lambda image: within_limit(image).load())
    except UnreadableImage:
        return False
    return True


def _bare(content: bytes) -> bytes:
    """Without metadata, which may be full of zeros."""
    with suppress(Exception):
        return without_metadata(content) or content
    return content


def _has_checksums(content: bytes) -> bool:
    """Whether the pixels in a PNG have the checksums that stand beside them; Pillow does not compare them."""
    at = len(PNG_START)
    while at + 8 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        if kind == b"IDAT" and zlib.crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            return False
        if kind == b"IEND":
            break
        at = end + 4
    return True
