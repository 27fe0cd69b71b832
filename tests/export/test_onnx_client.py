"""The example client prepares every kind of image as predict.py does, or refuses it too."""

import io
import runpy
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from odd_files import IS_PILLOW_13, deep_png, planar_tiff
from PIL import Image, TiffImagePlugin

from headstart.data.images import read_rgb
from headstart.data.preprocessing import Preprocessing, network_input
from headstart.errors import UnreadableImage

Array = np.ndarray[Any, np.dtype[Any]]
SIZE = (60, 44)
RANDOM = np.random.default_rng(0)
COLOUR = np.asarray(
    Image.fromarray(RANDOM.integers(0, 256, (5, 6, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
)
GRAY = np.asarray(Image.fromarray(COLOUR).convert("L"))
# All pixels but one.
OTHERS = np.arange(GRAY.size).reshape(GRAY.shape) != 9
DEEP = (GRAY.astype(np.uint16) << 4) + 7


def saved(image: Image.Image | Array, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(content, form, **options)
    return content.getvalue()


def tiff(samples: Array, tag: int, value: int) -> bytes:
    """A TIFF with another short value of a tag."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = value
    content = bytearray(saved(samples, "TIFF", tiffinfo=tags))
    order = "<" if content.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", content, at)[0] == tag:
            struct.pack_into(f"{order}H", content, at + 8, value)
    return bytes(content)


def with_alpha(values: Array) -> Image.Image:
    image = Image.fromarray(COLOUR)
    image.putalpha(Image.fromarray(np.resize(values.astype(np.uint8), GRAY.shape)))
    return image


def rotated(form: str) -> bytes:
    exif = Image.Exif()
    exif[0x112] = 6
    return saved(COLOUR, form, exif=exif)


def palette() -> bytes:
    return saved(Image.fromarray(COLOUR).quantize(16), "PNG", transparency=3)


ALPHA = np.linspace(0, 255, 999)
ODD: dict[str, bytes] = {
    "colour": saved(COLOUR, "JPEG"),
    "gray": saved(GRAY, "PNG"),
    "1 bit": saved(Image.fromarray(GRAY).convert("1"), "PNG"),
    "1 bit, white is 0": saved(Image.fromarray(GRAY).convert("1"), "TIFF", tiffinfo={262: 0}),
    "12 of 16 bits": saved(DEEP, "PNG"),
    "big-endian": saved(DEEP.astype(">u2"), "TIFF"),
    "16 bits, white is 0": tiff(DEEP, 262, 0),
    "big-endian, white is 0": tiff(DEEP.astype(">u2"), 262, 0),
    "32 bits": saved(DEEP.astype(np.int32), "TIFF"),
    "32 bits, a defective pixel": saved(np.where(OTHERS, DEEP, -5).astype(np.int32), "TIFF"),
    "16 bits, transparent value": saved(DEEP, "PNG", transparency=int(DEEP[0, 0])),
    "16-bit RGB": deep_png(COLOUR.astype(np.uint16) * 257),
    "16-bit RGBA": deep_png(np.asarray(with_alpha(ALPHA)).astype(np.uint16) * 257),
    "floats to 1": saved((GRAY / 255).astype(np.float32), "TIFF"),
    "floats to 255": saved(GRAY.astype(np.float32), "TIFF"),
    "floats with NaN": saved(np.where(OTHERS, GRAY, np.nan).astype(np.float32), "TIFF"),
    "RGBA": saved(with_alpha(ALPHA), "PNG"),
    "RGBA of WebP": saved(with_alpha(ALPHA), "WEBP"),
    "alpha is 0": saved(with_alpha(np.zeros(1)), "PNG"),
    "alpha is 1": saved(with_alpha(np.ones(1)), "PNG"),
    "LA": saved(with_alpha(ALPHA).convert("LA"), "PNG"),
    "palette": palette(),
    "8-bit planes": planar_tiff(COLOUR),
    "CMYK": saved(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "CIELAB": saved(Image.fromarray(COLOUR).convert("LAB"), "TIFF"),
    "rotated JPEG": rotated("JPEG"),
    "rotated PNG": rotated("PNG"),
    "rotated TIFF": rotated("TIFF"),
    "rotated WebP": rotated("WEBP"),
    "frames": saved(Image.fromarray(COLOUR), "GIF", save_all=True, append_images=[Image.fromarray(COLOUR[::-1])]),
    "elongated": saved(Image.fromarray(COLOUR).resize((700, 9)), "PNG"),
}
if IS_PILLOW_13:
    ODD["YCbCr"] = saved(Image.fromarray(COLOUR).convert("YCbCr"), "TIFF")
REFUSED: dict[str, bytes] = {
    "16-bit planes": planar_tiff(COLOUR.astype(np.uint16) * 257),
    "signed, 8 bits": tiff(GRAY, 339, 2),
    "signed": tiff((DEEP.astype(np.int16) - 1000).view(np.uint16), 339, 2),
    "32 bits": saved(DEEP.astype(np.int32) * 40, "TIFF"),
    "floats": saved(GRAY.astype(np.float32) * 9, "TIFF"),
    "negative floats": saved(GRAY.astype(np.float32) / 127 - 1, "TIFF"),
    "NaN": saved(np.where(GRAY > 99, np.nan, GRAY).astype(np.float32), "TIFF"),
}


@pytest.fixture(scope="module")
def prepare() -> Callable[[str, dict[str, Any]], Array]:
    pytest.importorskip("onnxruntime")
    found: Callable[[str, dict[str, Any]], Array] = runpy.run_path(str(ROOT / "examples" / "onnx_client.py"))["prepare"]
    return found


@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
@pytest.mark.parametrize("kind", ODD)
def test_client__prepares_images_as_predict_does(
    prepare: Callable[[str, dict[str, Any]], Array], tmp_path: Path, kind: str, mode: str
) -> None:
    (tmp_path / "image").write_bytes(ODD[kind])
    for depth in (12, 16):
        steps = Preprocessing(40, 32, resize_mode=mode, depth=depth)
        expected = network_input(read_rgb(tmp_path / "image", depth), steps)
        assert expected.std() > 1
        assert (prepare(str(tmp_path / "image"), steps.as_dict()) == expected).all()


@pytest.mark.parametrize("kind", REFUSED)
def test_client__refuses_what_predict_refuses(
    prepare: Callable[[str, dict[str, Any]], Array], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "image").write_bytes(REFUSED[kind])
    with pytest.raises(UnreadableImage):
        read_rgb(tmp_path / "image")
    with pytest.raises(ValueError, match="no known meaning"):
        prepare(str(tmp_path / "image"), Preprocessing(40, 32).as_dict())
