"""Which files are images: by their extension, or by their content where the name does not say."""

import functools
import mimetypes
import os

from PIL import Image

from headstart.data.storage import is_in_archive, open_file, size_of

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
# Of operating systems, network drives and archives.
SYSTEM = ("thumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information")


def image_extensions() -> dict[str, str]:
    """The extensions of images that Pillow can decode, in lower case with the dot, and the format of each."""
    return _image_extensions(readable_formats())


@functools.cache
def _image_extensions(formats: tuple[str, ...]) -> dict[str, str]:
    # MPO files are opened as JPEG.
    readable = {*formats, "MPO"}
    return {extension: form for extension, form in Image.registered_extensions().items() if form in readable}


def readable_formats() -> tuple[str, ...]:
    """The formats that Pillow can decode, in the order in which it tries them; plugins may add some at any time."""
    Image.init()
    return _decodable(tuple(Image.ID))


@functools.cache
def _decodable(formats: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(form for form in dict.fromkeys(formats) if form not in NOT_DECODED)


def is_visible(name: str) -> bool:
    """Whether a file or folder of that name is neither hidden nor the operating system's."""
    return not name.startswith((".", "__MACOSX")) and name.lower() not in SYSTEM


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
    types = _known_types()
    kind = types.types_map[True].get(extension, "image/")
    return extension in types.encodings_map or not (kind.startswith("image/") or kind == "application/octet-stream")


@functools.cache
def _known_types() -> mimetypes.MimeTypes:
    # Python's own table, not the operating system's, so that every machine reads the same files.
    return mimetypes.MimeTypes()


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
