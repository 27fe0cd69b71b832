"""Any image file as an upright RGB image. Training, the audit and prediction all read images here."""

import errno
import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import jpeg_factory

from headstart.data.folders import read_file, readable_formats, size_of
from headstart.data.preprocessing import FULL_DEPTH, Samples, highest_samples, to_rgb
from headstart.errors import HeadstartError, UnreadableImage

# Pillow warns about odd metadata, but only the pixels matter here. Set once, because filters are not per thread.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Pillow reads 16-bit TIFF files whose 0 is white only if they are little-endian; see headstart.data.preprocessing.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))

JPEG_START, TIFF_STARTS = b"\xff\xd8\xff", (b"II*\0", b"MM\0*")
Result = TypeVar("Result")
# Uncompressed, no format needs more. A file beyond that is no image, or one of very many frames.
BYTES_PER_PIXEL, DEFAULT_PIXELS = 16, 89_478_485
# Formats whose further frames are animations or pages. Those of JPEG (MPO) are previews, those of ICO other sizes.
WITH_FRAMES = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
NOTE = "headstart"
# Pixels of an image that Pillow allows, unless data.max_pixels says otherwise.
USUAL_LIMIT = Image.MAX_IMAGE_PIXELS


class Note(NamedTuple):
    """The `highest_samples` of a file with more than eight bits, and whether it has more frames than the first one."""

    samples: Samples | None
    has_more_frames: bool


def read_rgb(path: str | Path, depth: int = FULL_DEPTH, sha256: str | None = None) -> Image.Image:
    """Reads the image at `path` as RGB, rotated upright by its EXIF orientation; the first frame of an animation.

    16-bit samples keep the upper eight of their lower `depth` bits, as `to_rgb` says. With `sha256`,
    which the file had when it was inspected, other bytes are never decoded.

    Raises:
        UnreadableImage: names the file and what is wrong with it.
        HeadstartError: the file is another one than was inspected.
    """
    try:
        content = read_image_file(path)
    except OSError as error:
        if sha256 is not None:
            raise HeadstartError(f"{path} was there when the images were checked, and now: {error.strerror}") from None
        raise UnreadableImage(f"{path} cannot be read as an image: {error.strerror}", fault_of(error)) from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise HeadstartError(f"{path} was changed after the images were checked: run the command again")
    return rgb_in(content, path, depth)


def rgb_in(content: bytes, path: str | Path, depth: int = FULL_DEPTH) -> Image.Image:
    """Returns the image in the `content` of `path`, as `read_rgb` does."""
    return decode(path, content, lambda image: upright_rgb(within_limit(image), depth))


def read_image_file(path: str | Path) -> bytes:
    """Returns the content of a file that should be an image. What is too large to be one is not read.

    Raises:
        OSError: it cannot be read, is not a regular file, or is too large.
    """
    size, pixels = size_of(path), Image.MAX_IMAGE_PIXELS
    if pixels is not None and size > (most := BYTES_PER_PIXEL * max(pixels, DEFAULT_PIXELS)):
        raise OSError(
            errno.EFBIG,
            f"its {size / 1e9:.1f} GB are more than the {most / 1e9:.1f} GB of the largest images that are read; "
            f"data.max_pixels={-(-size // BYTES_PER_PIXEL)} allows them",
        )
    return read_file(path)


def fault_of(error: OSError) -> str:
    """Returns the one of UnreadableImage.FAULTS for which `read_image_file` raised an error."""
    return "file too large" if error.errno == errno.EFBIG else "unreadable"


def decode(path: str | Path, content: bytes, use: Callable[[Image.Image], Result]) -> Result:
    """Returns `use(image)` of the image in the `content` of `path`, opened but not yet decoded.

    Only pixels decide whether it can be read: if metadata are in the way, it is opened without them.

    Raises:
        UnreadableImage: also for errors in `use`; names the file and what is wrong with it.
    """
    try:
        with _opened(content) as image:
            return use(image)
    # Pillow's readers raise errors of many kinds for broken files: OSError, SyntaxError, struct.error, …
    except Exception as error:
        fault, reason = _fault(content, error)
        if fault != "decompression bomb":
            with suppress(Exception), _opened(without_metadata(content) or b"") as image:
                return use(image)
        raise UnreadableImage(f"{path} cannot be read as an image: {reason}", fault) from error


def upright_rgb(image: Image.Image, depth: int = FULL_DEPTH) -> Image.Image:
    """Returns an opened image, decoded, in RGB and upright. What `note_of` gives is in its `info`."""
    image.load()
    rgb = to_rgb(image, depth)
    if (orientation := orientation_of(image)) in TURN:
        rgb = rgb.transpose(TURN[orientation])
    has_more = image.format in WITH_FRAMES and getattr(image, "is_animated", False)
    if (samples := highest_samples(image)) is not None or has_more:
        rgb.info[NOTE] = Note(samples, has_more)
    return rgb


def note_of(image: Image.Image) -> Note | None:
    """Returns what was special about the file that `read_rgb` or `upright_rgb` gave this image of; None: nothing."""
    return image.info.get(NOTE)


@contextmanager
def allowed_pixels(most: int | None) -> Iterator[None]:
    """Lets images of up to `most` pixels be read at full size in the block; None: as many as Pillow allows."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = before if most is None else most
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def decoding() -> dict[str, Any]:
    """Returns settings of this process that decide which files are read and what their pixels are; {} by default.

    They belong into the key of whatever is computed from pixels and stored. `plugins` are readers that are not Pillow's
    own, such as pillow_heif's, with the version of their package.
    """
    readers = {form: Image.OPEN[form][0].__module__.split(".")[0] for form in readable_formats()}
    plugins = {form: f"{package} {_version(package)}" for form, package in readers.items() if package != "PIL"}
    return {
        **({"max_pixels": Image.MAX_IMAGE_PIXELS} if Image.MAX_IMAGE_PIXELS != USUAL_LIMIT else {}),
        **({"truncated": True} if ImageFile.LOAD_TRUNCATED_IMAGES else {}),
        **({"plugins": plugins} if plugins else {}),
    }


def _version(package: str) -> str:
    with suppress(PackageNotFoundError):
        return version(package)
    return "of no known version"


def within_limit(image: Image.Image) -> Image.Image:
    """Returns the opened image: a JPEG at half, a quarter or an eighth of its size if it has too many pixels.

    Raises:
        DecompressionBombError: it is too large, and of another format.
    """
    most, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if most is None or pixels <= most:
        return image
    factor = next((factor for factor in (2, 4, 8) if pixels <= most * factor**2), None)
    if factor is None or image.draft(None, (image.width // factor, image.height // factor)) is None:
        raise Image.DecompressionBombError(
            f"its {image.width} × {image.height} pixels are more than {most:,}, which looks like a decompression bomb; "
            f"data.max_pixels={pixels} allows them"
        )
    return image


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=readable_formats())
    except Image.DecompressionBombError as error:
        # Pillow itself opens nothing that is twice as large as is allowed.
        if content.startswith(JPEG_START):
            return jpeg_factory(io.BytesIO(content))
        raise Image.DecompressionBombError(f"{str(error).rstrip('.')}; data.max_pixels=N allows more") from None


def _fault(content: bytes, error: Exception) -> tuple[str, str]:
    """The kind of fault, one of UnreadableImage.FAULTS, and the reason in words."""
    if isinstance(error, Image.DecompressionBombError):
        return "decompression bomb", str(error)
    if not content:
        return "empty file", "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        is_tiff = content.startswith(TIFF_STARTS)
        what = "a TIFF that is damaged, or of a kind that Pillow cannot read: copy it again, or convert it to 8 bits"
        return "not an image", f"its content is {what if is_tiff else 'not a known image format'}"
    reason = str(error) or type(error).__name__
    return "truncated" if "truncated" in reason.lower() else "unreadable", reason


# Metadata of image files. The orientation is used; whatever else is in them or wrong with them never matters.

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
    """Returns the EXIF orientation (1 … 8) by which a loaded image must be rotated to be upright; 1 if unknown.

    Pillow loads some formats to find it, so that, before, this would hide what is wrong with the pixels.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    # Damaged metadata raise errors of many kinds.
    except Exception:
        return 1
    return int(value) if isinstance(value, int) and value in TURN else 1


def without_metadata(content: bytes) -> bytes | None:
    """Returns the same image file with the orientation as its only metadata; None if that is not known for its format.

    For files that Pillow does not open because of their metadata. What the pixels depend on is kept as it is.
    """
    if content.startswith(JPEG_START):
        return _jpeg(content)
    if content.startswith(PNG_START):
        return _png(content)
    if content.startswith(TIFF_STARTS):
        return _tiff(content)
    return None


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type of each chunk of a PNG file, and at which bytes the chunk begins and ends."""
    kind, at = b"", len(PNG_START)
    while at + 8 <= len(content) and kind != b"IEND":
        kind, end = content[at + 4 : at + 8], at + 12 + _uint(content[at : at + 4])
        yield kind, at, end
        at = end


def _orientation_in(exif: bytes) -> int:
    with suppress(Exception):
        tags = Image.Exif()
        tags.load(exif)
        return int(tags.get(ExifTags.Base.Orientation, 1))
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
    kept, orientation = PNG_START, 1
    for kind, at, end in png_chunks(content):
        if kind[:1].isupper() or kind == b"tRNS":
            kept += content[at:end]
        elif kind == b"eXIf":
            orientation = _orientation_in(content[at + 8 : end - 4])
    data = b"eXIf" + _exif(orientation).removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return kept[:PNG_HEADER_END] + chunk + kept[PNG_HEADER_END:]


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


def _uint(field: bytes) -> int:
    return int.from_bytes(field, "big")
