"""Any image file as an upright RGB image. Training, the audit and prediction all read images here."""

import errno
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import jpeg_factory

from headstart.data.formats import readable_formats
from headstart.data.metadata import orientation_of, upright, without_metadata
from headstart.data.pixels import FULL_DEPTH, highest_samples, to_rgb
from headstart.data.storage import read_file, size_of
from headstart.errors import HeadstartError, UnreadableImage

# Pillow warns about odd metadata, but only the pixels matter here. Set once, because filters are not per thread.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Pillow reads 16-bit TIFF files whose 0 is white only if they are little-endian; see headstart.data.pixels.
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

    samples: tuple[int, int] | None
    has_more_frames: bool


def read_rgb(path: str | Path, depth: int = FULL_DEPTH, sha256: str | None = None) -> Image.Image:
    """Reads the image at `path` as RGB, rotated upright by its EXIF orientation; the first frame of an animation.

    16-bit samples keep the upper eight of their lower `depth` bits; see headstart.data.pixels.to_rgb. With `sha256`,
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
    return decode(path, content, lambda image: upright_rgb(within_limit(image), depth))


def read_image_file(path: str | Path) -> bytes:
    """The content of a file that should be an image. What is too large to be one is not read.

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
    """The one of UnreadableImage.FAULTS for which `read_image_file` raised an error."""
    return "file too large" if error.errno == errno.EFBIG else "unreadable"


def decode(path: str | Path, content: bytes, use: Callable[[Image.Image], Result]) -> Result:
    """`use(image)` of the image that is the `content` of `path`, opened but not yet decoded.

    Only pixels decide whether it can be read: if metadata are in the way, it is opened without them.

    Raises:
        UnreadableImage: also for errors in `use`; names the file and what is wrong with it.
    """
    try:
        return _open(content, use)
    # Pillow's readers raise errors of many kinds for broken files: OSError, SyntaxError, struct.error, …
    except Exception as error:
        fault, reason = _fault(content, error)
        if fault != "decompression bomb":
            with suppress(Exception):
                return _open(without_metadata(content) or b"", use)
        raise UnreadableImage(f"{path} cannot be read as an image: {reason}", fault) from error


def upright_rgb(image: Image.Image, depth: int = FULL_DEPTH) -> Image.Image:
    """An opened image, decoded, in RGB and upright. What `note_of` gives is in its `info`."""
    image.load()
    found = upright(to_rgb(image, depth), orientation_of(image))
    has_more = image.format in WITH_FRAMES and getattr(image, "is_animated", False)
    if (samples := highest_samples(image)) is not None or has_more:
        found.info[NOTE] = Note(samples, has_more)
    return found


def note_of(image: Image.Image) -> Note | None:
    """What was special about the file that `read_rgb` or `upright_rgb` gave this image of; None: nothing."""
    return image.info.get(NOTE)


@contextmanager
def allowed_pixels(most: int | None) -> Iterator[None]:
    """In the block, images of up to `most` pixels are read at full size; None: as many as Pillow allows."""
    before = Image.MAX_IMAGE_PIXELS
    allow_pixels(before if most is None else most)
    try:
        yield
    finally:
        allow_pixels(before)


def allow_pixels(most: int | None) -> None:
    """As `allowed_pixels`, from here on; None: there is no limit."""
    Image.MAX_IMAGE_PIXELS = most


def decoding() -> dict[str, Any]:
    """Settings of this process that decide which files can be read and what their pixels are; {} with the usual ones.

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
    """The opened image, a JPEG at half, a quarter or an eighth of its size if it has more pixels than are allowed.

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


def _open(content: bytes, use: Callable[[Image.Image], Result]) -> Result:
    with _opened(content) as image:
        return use(image)


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
