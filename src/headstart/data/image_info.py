"""What is known about an image file from its content alone; each content is decoded once, and the result cached."""

import base64
import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image
from PIL.ImageFile import ImageFile

from headstart.data.folders import exists, read_ahead
from headstart.data.images import (
    PNG_START,
    TRANSPOSED,
    decode,
    decoding,
    fault_of,
    orientation_of,
    png_chunks,
    read_image_file,
    upright_rgb,
    within_limit,
    without_metadata,
)
from headstart.data.preprocessing import (
    DEPTHS,
    FAR,
    Array,
    Samples,
    clipped_share,
    hidden_share,
    highest_samples,
    is_wide,
    reading_of,
)
from headstart.errors import UnreadableImage
from headstart.files import CACHE, cache_folder, mark_if_empty, write_text
from headstart.processes import thread_imap

# Increased when the same content would give another ImageInfo.
VERSION = 8
# Pixels are sampled on a grid of this many by this many.
GRID = 32
# The edges of a thumbnail, in pixels.
THUMBNAIL = 8
# The short edge, in pixels, at which sharpness is measured.
EDGE = 224
# Channels of a grayscale JPEG differ by no more than this, of 256 levels, because of compression noise.
GRAYSCALE = 4
# If fewer images than this fraction have eight bits among 16-bit files, those are the odd ones.
EIGHT_BITS_ARE_RARE = 0.1
# The fault of a file that a table names, but that is not there.
MISSING = "missing file"


@dataclass(frozen=True)
class ImageInfo:
    """Holds what a file's content says. If it is not a usable image, `fault` is one of UnreadableImage.FAULTS or
    MISSING, and `reason` says why.

    Sizes are in pixels, of the upright image; `colours` is the number of distinct ones among GRID × GRID pixels,
    `dominant` the share of the most frequent one (similar ones counted together). `darkest` and `brightest` are the 5th
    and the 95th percentile of the brightness, from 0 to 255; `sharpness` is the standard deviation of the brightness's
    Laplacian, relative to its own, at a short edge of EDGE pixels or less.

    `thumbnail` is the whole image in RGB at THUMBNAIL × THUMBNAIL pixels, as `decode_thumbnail` reads it.

    `reading` says how its pixels are read if not in the usual way, `hidden` is the share of them that transparency
    hides although there is something. `damage` says what seems to be damaged.

    Of an image whose samples have more than eight bits, `highest` is the highest one, and `usual` the highest one but
    for a few. What one sees of it depends on how many bits are read: `at` has these values for each of DEPTHS, and
    `clipped`, the share of the samples that are too high for it.
    """

    sha256: str
    fault: str | None = None
    reason: str | None = None
    format: str = ""
    width: int = 0
    height: int = 0
    frames: int = 1
    orientation: int = 1
    grayscale: bool = False
    colours: int = 0
    dominant: float = 0.0
    darkest: int = 0
    brightest: int = 255
    sharpness: float = 1.0
    thumbnail: str = ""
    reading: str = ""
    hidden: float = 0.0
    damage: str = ""
    highest: int | None = None
    usual: int | None = None
    clipped: float = 0.0
    at: dict[str, dict[str, Any]] = field(default_factory=dict)

    def seen_at(self, depth: int) -> "ImageInfo":
        """Returns the same image as it is seen if the lower `depth` bits of 16-bit samples are read."""
        return replace(self, **self.at[str(depth)]) if self.at else self


def inspect_images(root: Path, paths: list[str]) -> dict[str, ImageInfo]:
    """Returns what is known about each of `paths`, relative to `root`. Only files with new content are decoded."""
    place = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:20]
    name = re.sub(r"[^\w.-]+", "_", root.resolve().name)
    cache = cache_folder() / "audit" / f"{name}-{place}.jsonl"
    head = {"version": VERSION, "pillow": PIL.__version__, "pixels": Image.MAX_IMAGE_PIXELS} | decoding()
    known = _read_cache(cache, head)
    files = read_ahead(root / path for path in paths)
    infos = dict(zip(paths, thread_imap(lambda path: _info(path, known), files), strict=True))
    # What earlier inspections found of contents that are gone is forgotten.
    current = {info.sha256: info for info in infos.values() if info.sha256}
    if current != known:
        # If the folder cannot be written, the next inspection merely takes longer.
        with suppress(OSError):
            mark_if_empty(cache.parent, CACHE)
            write_text(cache, "".join(json.dumps(values) + "\n" for values in (head, *map(vars, current.values()))))
    return infos


def _read_cache(path: Path, head: dict[str, Any]) -> dict[str, ImageInfo]:
    """Returns what earlier inspections found, by content, from JSON Lines of which the first is to be `head`."""
    infos: dict[str, ImageInfo] = {}
    # Missing or damaged: what is not known is inspected again.
    with suppress(OSError, ValueError, TypeError), path.open(encoding="utf-8") as lines:
        if json.loads(next(lines, "null")) == head:
            for line in lines:
                info = ImageInfo(**json.loads(line))
                infos[info.sha256] = info
    return infos


def deep_samples(infos: Mapping[str, ImageInfo]) -> dict[str, Samples]:
    """Returns the highest samples of those that are 16-bit files, by path."""
    return {
        path: Samples(info.highest, info.usual)
        for path, info in infos.items()
        if info.highest is not None and info.usual is not None
    }


def odd_depths(infos: Mapping[str, ImageInfo], depth: int) -> dict[str, str]:
    """Returns the images by path that stand out when they are read with `depth`, and why."""
    deep, odd = deep_samples(infos), {}
    for path, samples in deep.items():
        if samples.highest >= 2**depth:
            share = f"{infos[path].clipped:.1%}" if infos[path].clipped >= 0.001 else "less than 0.1 %"
            odd[path] = f"samples up to {samples.highest:,}: {share} of it is too bright for {depth} bits and clipped"
        elif samples.bits <= depth - FAR:
            odd[path] = (
                f"it uses only {samples.bits} of the {depth} bits that are read: from another source, or almost black"
            )
    plain = [path for path in infos if path not in deep]
    if len(plain) < EIGHT_BITS_ARE_RARE * len(infos):
        odd |= dict.fromkeys(plain, "8 bits per sample, among images with 16")
    return odd


def _info(path: Path, known: dict[str, ImageInfo]) -> ImageInfo:
    try:
        content = read_image_file(path)
    except OSError as error:
        return ImageInfo("", fault_of(error) if os.path.lexists(path) or exists(path) else MISSING, error.strerror)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 in known:
        return known[sha256]
    try:
        info = ImageInfo(sha256, None, None, **decode(path, content, _look))
        return replace(info, damage=info.damage or damage_of(content, info.dominant))
    except UnreadableImage as error:
        # Without the path, which may be different next time.
        return ImageInfo(sha256, error.fault, str(error).removeprefix(f"{path} cannot be read as an image: "))


def _look(image: Image.Image) -> dict[str, Any]:
    """What ImageInfo says about an image that can be read."""
    form, (width, height) = image.format or "", image.size
    # Pillow rotates these itself when they are loaded, and then their orientation is 1; their size is upright.
    by_pillow = orientation_of(image) if form == "TIFF" else 1
    wide = is_wide(image)
    # The whole file is decoded, at the smallest scale that its format offers and that is large enough.
    image.draft("RGB", (EDGE, EDGE))
    within_limit(image).load()
    rgb = upright_rgb(image)
    seen = _seen(rgb, form) | {"thumbnail": _thumbnail(rgb)}
    if (samples := highest_samples(image)) is not None:
        at = {str(d): _seen(upright_rgb(image, d), form) | {"clipped": clipped_share(image, d)} for d in DEPTHS}
        seen |= samples._asdict() | {"at": at}
    # Before other frames are looked for, which would load this one again.
    seen |= {"reading": reading_of(image, wide=wide), "hidden": hidden_share(image)}
    orientation = orientation_of(image)
    if orientation in TRANSPOSED:
        width, height = height, width
    size = {"format": form, "width": width, "height": height}
    return size | {"frames": _frames(image), "orientation": max(orientation, by_pillow)} | seen


def _seen(rgb: Image.Image, form: str) -> dict[str, Any]:
    """What ImageInfo says about the pixels of an RGB image."""
    brightness = _brightness(rgb)
    if form == "JPEG":
        # Compression noise averages out.
        rgb = rgb.reduce(max(factor for factor in (1, 2, 4, 8) if factor == 1 or min(rgb.size) // factor >= GRID))
    pixels = np.asarray(rgb.resize((GRID, GRID), Image.Resampling.NEAREST))
    gray = f"the lower {share:.0%} of it are gray, as where data were missing" if (share := gray_rows(pixels)) else ""
    return _colours(pixels) | brightness | {"damage": gray}


def _thumbnail(rgb: Image.Image) -> str:
    pixels = rgb.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes()
    return base64.b64encode(pixels).decode()


def decode_thumbnail(text: str) -> Array:
    """Returns the pixels (THUMBNAIL, THUMBNAIL, 3) of an image's thumbnail, uint8."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(THUMBNAIL, THUMBNAIL, 3)


def _frames(image: Image.Image) -> int:
    """How many there are; 1 if the others are damaged, because only the first one is used."""
    with suppress(Exception):
        return max(1, int(getattr(image, "n_frames", 1)))
    return 1


def _colours(pixels: Array) -> dict[str, Any]:
    """`grayscale`, `colours` and `dominant` of an RGB grid."""
    red, green, blue = np.moveaxis(pixels.reshape(-1, 3).astype(np.int32), 1, 0)
    exact = np.sort((red << 16) | (green << 8) | blue)
    alike = np.bincount((red >> 4 << 8) | (green >> 4 << 4) | (blue >> 4))
    return {
        "grayscale": bool(max(abs(red - green).max(), abs(green - blue).max()) <= GRAYSCALE),
        "colours": 1 + int(np.count_nonzero(np.diff(exact))),
        "dominant": round(float(alike.max()) / len(exact), 4),
    }


def _brightness(rgb: Image.Image) -> dict[str, Any]:
    """`darkest`, `brightest` and `sharpness` of an image."""
    luma, scale = rgb.convert("L"), EDGE / min(rgb.size)
    if scale < 1:
        luma = luma.resize((round(luma.width * scale), round(luma.height * scale)), Image.Resampling.BILINEAR)
    # From the histogram, because sorting all pixels would take longer than decoding them.
    shares = np.array(luma.histogram()) / (luma.width * luma.height)
    darkest, brightest = np.searchsorted(np.cumsum(shares), (0.05, 0.95)).tolist()
    if min(luma.size) < 3:
        return {"darkest": darkest, "brightest": brightest}
    values = np.asarray(luma, np.int16)
    laplacian = values[1:-1, 2:] + values[1:-1, :-2]
    laplacian += values[2:, 1:-1]
    laplacian += values[:-2, 1:-1]
    laplacian -= 4 * values[1:-1, 1:-1]
    # As if there were a little noise, so that an empty image is not a sharp one.
    levels = np.arange(256)
    deviation = float((shares @ levels**2 - (shares @ levels) ** 2) ** 0.5)
    sharpness = round(float(laplacian.std()) / (deviation + 4), 4)
    return {"darkest": darkest, "brightest": brightest, "sharpness": sharpness}


# Damage that decodes: a copy that broke off leaves zeros, of which many formats make pixels without an error.

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


def damage_of(content: bytes, dominant: float) -> str:
    """Returns what is damaged in an image file that decodes, or may be; "" if nothing seems to be.

    `dominant` is the share of its pixels that have the most frequent colour.
    """
    if content.startswith(PNG_START) and not _has_checksums(content):
        return "the checksum of its pixels is wrong"
    for byte in FILLINGS:
        start, end = _longest_run(content, byte)
        if end - start >= RUN * len(content) and _is_damage(_without_metadata(content), byte, dominant):
            return f"{(end - start) / len(content):.0%} of the file, from byte {start:,} on, are all {byte}"
    return ""


def gray_rows(grid: Array) -> float:
    """Returns the share of the rows at the bottom of an RGB image (H, W, 3) that have the gray of missing JPEG data.

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
            run = len(content[:place].rstrip(fill)), place + len(after) - len(after.lstrip(fill))
            longest = max(longest, run, key=lambda run: run[1] - run[0])
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


def _without_metadata(content: bytes) -> bytes:
    """Metadata may be full of zeros."""
    with suppress(Exception):
        return without_metadata(content) or content
    return content


def _has_checksums(content: bytes) -> bool:
    """Whether the pixels in a PNG have the checksums that stand beside them; Pillow does not compare them."""
    return all(
        zlib.crc32(content[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big")
        for kind, at, end in png_chunks(content)
        if kind == b"IDAT"
    )
