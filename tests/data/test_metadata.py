"""Whatever the metadata are, the pixels decide: for training, the audit and prediction alike."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from odd_files import FIELDS, SIZE, chunk, exif, good_image, jpegs, png, pngs, saved, segment, tiffs, with_exif
from PIL import Image

from headstart.data.image_info import ImageInfo, inspect_images
from headstart.data.images import TURN, read_rgb, without_metadata
from headstart.errors import UnreadableImage

# pytest shows these warnings, which the program suppresses.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def read(folder: Path, content: bytes) -> tuple[Image.Image, ImageInfo]:
    """The image as training reads it, and what the audit says about it."""
    (folder / "image").write_bytes(content)
    return read_rgb(folder / "image"), inspect_images(folder, ["image"])["image"]


def assert_read(folder: Path, content: bytes, orientation: int) -> None:
    """The image can be read, it is rotated, and the audit agrees."""
    image, info = read(folder, content)
    assert (info.fault, info.orientation, (info.width, info.height)) == (None, orientation, image.size)
    expected = good_image().transpose(TURN[orientation]) if orientation in TURN else good_image()
    assert image.size == expected.size
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 3


def cases(files: Iterator[tuple[str, bytes]]) -> list[object]:
    return [pytest.param(content, id=name) for name, content in files]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif__rotates_by_the_orientation_alone(tmp_path: Path, form: str, name: str) -> None:
    assert_read(tmp_path, with_exif(form, exif(FIELDS[name])), 6)


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_exif__invalid_orientations_rotate_nothing(tmp_path: Path, orientation: int) -> None:
    assert_read(tmp_path, with_exif("JPEG", exif(orientation=orientation)), 1)


@pytest.mark.parametrize("orientation", TURN)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif__every_orientation(tmp_path: Path, form: str, orientation: int) -> None:
    content = io.BytesIO()
    tags = Image.Exif()
    tags[0x112] = orientation
    good_image().save(content, form, exif=tags, quality=95)
    assert_read(tmp_path, content.getvalue(), orientation)


@pytest.mark.parametrize("content", cases(jpegs()))
def test_jpeg__damaged_metadata(tmp_path: Path, content: bytes) -> None:
    assert_read(tmp_path, content, 1)


@pytest.mark.parametrize("content", cases(pngs()))
def test_png__damaged_metadata(tmp_path: Path, content: bytes) -> None:
    assert_read(tmp_path, content, 1)


def test_png__damaged_metadata_beside_an_orientation(tmp_path: Path) -> None:
    assert_read(tmp_path, png(chunk(b"eXIf", exif()) + chunk(b"pHYs", b"")), 6)
    assert_read(tmp_path, png(chunk(b"eXIf", exif(), 1)), 6)


def test_jpeg__damaged_metadata_beside_an_orientation(tmp_path: Path) -> None:
    content = with_exif("JPEG", exif())
    assert_read(tmp_path, content[:2] + segment(0xE2, b"ICC_PROFILE\0") + content[2:], 6)


@pytest.mark.parametrize("content", [*cases(tiffs(None)), *cases(tiffs("tiff_lzw")), *cases(tiffs("jpeg"))])
def test_tiff__damaged_metadata(tmp_path: Path, content: bytes) -> None:
    assert_read(tmp_path, content, 6)


def test_xmp__rotates_where_there_is_no_exif(tmp_path: Path) -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    content = saved("JPEG")
    assert_read(tmp_path, content[:2] + segment(0xE1, xmp) + content[2:], 6)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_pixels__a_truncated_image_stays_unreadable(tmp_path: Path, form: str, share: float) -> None:
    content = saved(form)
    with pytest.raises(UnreadableImage):
        read(tmp_path, content[: int(share * len(content))])
    assert inspect_images(tmp_path, ["image"])["image"].fault is not None


def test_pixels__a_damaged_png_stays_unreadable(tmp_path: Path) -> None:
    content = bytearray(saved("PNG"))
    content[len(content) // 2] ^= 255
    with pytest.raises(UnreadableImage):
        read(tmp_path, bytes(content))
    assert inspect_images(tmp_path, ["image"])["image"].fault == "unreadable"


def test_without_metadata__unknown_formats() -> None:
    assert without_metadata(b"Dear Sir or Madam") is None
    assert without_metadata(saved("BMP")) is None


def test_frames__damaged_ones_after_the_first_do_not_matter(tmp_path: Path) -> None:
    frames = [good_image().convert("P"), good_image().rotate(90).convert("P")]
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:])
    image, info = read(tmp_path, content.getvalue())
    assert (info.frames, image.size) == (2, SIZE)
    image, info = read(tmp_path, content.getvalue()[:-200])
    assert (info.fault, image.size) == (None, SIZE)
