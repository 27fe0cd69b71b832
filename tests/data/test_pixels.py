"""Images whose pixels mean something else than usual, and what the audit says about them."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_files import deep_png, planar_tiff
from PIL import Image, TiffImagePlugin

from headstart.data.image_info import ImageInfo, inspect_images
from headstart.data.images import read_rgb
from headstart.errors import UnreadableImage

Array = np.ndarray[Any, np.dtype[Any]]
# 40 × 40 pixels from black to white.
RAMP = np.linspace(0, 1, 1600).reshape(40, 40)
LEVELS = (RAMP * 255).astype(np.uint8)


def saved(path: Path, samples: Array, **tags: int) -> Path:
    """An image file of these samples, a TIFF with other tags: photometric."""
    image = Image.fromarray(samples)
    content = io.BytesIO()
    image.save(content, "TIFF" if path.suffix == ".tif" else "PNG")
    path.write_bytes(content.getvalue())
    for name, value in tags.items():
        retag(path, {"photometric": 262}[name], value)
    return path


def retag(path: Path, tag: int, value: int) -> None:
    """Sets a short value in the first directory of a TIFF of either byte order."""
    content = bytearray(path.read_bytes())
    order = "<" if content.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    (at,) = [
        p for p in range(start + 2, start + 2 + 12 * count, 12) if struct.unpack_from(f"{order}H", content, p)[0] == tag
    ]
    struct.pack_into(f"{order}H", content, at + 8, value)
    path.write_bytes(content)


def seen(path: Path, depth: int = 16) -> Array:
    return np.asarray(read_rgb(path, depth))[..., 0].astype(int)


def info_of(path: Path) -> ImageInfo:
    return inspect_images(path.parent, [path.name])[path.name]


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2"])
def test_white_is_zero__is_no_negative(tmp_path: Path, kind: str) -> None:
    samples = (LEVELS.astype(np.int64) * (1 if kind == "u1" else 257)).astype(kind)
    path = saved(tmp_path / "a.tif", samples, photometric=0)
    assert (seen(path) == 255 - LEVELS).all()
    assert info_of(path).reading == ("" if kind == "u1" else "white is 0 (PhotometricInterpretation)")


def test_white_is_zero__of_12_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", (LEVELS.astype(np.uint16) << 4) + 15, photometric=0)
    assert (seen(path, 12) == 255 - LEVELS).all()
    assert info_of(path).usual == 4079


def test_white_is_zero__one_bit(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", LEVELS > 99, photometric=0)
    assert (seen(path) == np.where(LEVELS > 99, 0, 255)).all()


def signed(path: Path, low: int) -> Path:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[339] = 2
    image = Image.fromarray((RAMP * 4000 + low).astype(np.int16).view(np.uint16))
    image.save(path, "TIFF", tiffinfo=tags)
    with Image.open(path) as image:
        assert image.mode == "I"
        assert np.asarray(image).min() == low
    return path


def test_signed__negative_samples_are_refused_by_name(tmp_path: Path) -> None:
    path = signed(tmp_path / "a.tif", -1000)
    with pytest.raises(
        UnreadableImage, match=r"a\.tif cannot be read as an image: what its samples from -9\d\d to 2,9\d\d"
    ):
        read_rgb(path)
    assert info_of(path).fault == "unreadable"
    assert str(info_of(path).reason).endswith("convert it to 8 or 16 bits without a sign, so that 0 is black")


def test_planes__of_16_bits_are_refused_by_name(tmp_path: Path) -> None:
    samples = np.repeat(LEVELS[..., None], 3, 2)
    (tmp_path / "a.tif").write_bytes(planar_tiff(samples))
    assert (seen(tmp_path / "a.tif") == LEVELS).all()
    (tmp_path / "b.tif").write_bytes(planar_tiff(samples.astype(np.uint16) * 257))
    with pytest.raises(UnreadableImage, match="its 16-bit channels are stored one after the other"):
        read_rgb(tmp_path / "b.tif")


def test_signed__8_bits(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[339] = 2
    for name, low in (("a.tif", -60), ("b.tif", 0)):
        Image.fromarray((RAMP * 120 + low).astype(np.int8).view(np.uint8)).save(tmp_path / name, "TIFF", tiffinfo=tags)
    with pytest.raises(UnreadableImage, match="what its samples from -5"):
        read_rgb(tmp_path / "a.tif")
    assert seen(tmp_path / "b.tif").max() == 120


@pytest.mark.parametrize("channels", [3, 4])
def test_colour__with_12_of_16_bits_is_said_to_be_black(tmp_path: Path, channels: int) -> None:
    samples = np.repeat((LEVELS.astype(np.uint16) * 16)[..., None], channels, 2)
    samples[..., 3:] = 65535
    (tmp_path / "a.png").write_bytes(deep_png(samples))
    assert info_of(tmp_path / "a.png").reading == (
        "16 bits per channel that use the lower 12, but Pillow reads the upper eight: almost black"
    )
    (tmp_path / "b.png").write_bytes(deep_png(samples * 16))
    assert info_of(tmp_path / "b.png").reading == ""


def test_signed__without_negative_samples_is_read(tmp_path: Path) -> None:
    assert seen(signed(tmp_path / "a.tif", 0), 12).max() == 250


@pytest.mark.parametrize("value", [-5, 70_000])
def test_32_bits__one_defective_pixel_is_clipped(tmp_path: Path, value: int) -> None:
    samples = (RAMP * 65535).astype(np.int32)
    samples[20, 20] = value
    path = saved(tmp_path / "a.tif", samples)
    assert seen(path)[20, 20] == (0 if value < 0 else 255)
    with pytest.raises(UnreadableImage, match="what its samples"):
        read_rgb(saved(tmp_path / "b.tif", samples * 40 - 9000))


@pytest.mark.parametrize(("scale", "white"), [(1, 1), (255, 255)])
@pytest.mark.parametrize("odd", [None, np.nan, np.inf, -np.inf, 9e9])
def test_floating_point__is_scaled(tmp_path: Path, scale: int, white: int, odd: float | None) -> None:
    samples = (RAMP * scale).astype(np.float32)
    if odd is not None:
        samples[20, 20] = odd
    path = saved(tmp_path / "a.tif", samples)
    found, usual = seen(path), np.rint(RAMP * 255)
    usual[20, 20] = found[20, 20] if odd is None else 255 if odd > 0 else 0
    assert (found == usual).all()
    assert info_of(path).reading == f"floating-point samples, of which {white} is white"


@pytest.mark.parametrize("samples", [RAMP * 65535, RAMP * 2 - 1, RAMP * 3, np.where(RAMP > 0.5, np.nan, RAMP)])
def test_floating_point__of_unknown_meaning_is_refused(tmp_path: Path, samples: Array) -> None:
    with pytest.raises(UnreadableImage, match=r"floating-point samples from|are NaN or infinite"):
        read_rgb(saved(tmp_path / "a.tif", samples.astype(np.float32)))


def with_alpha(alpha: Array | int, mode: str = "RGBA") -> Image.Image:
    image = Image.fromarray(LEVELS).convert("RGB")
    image.putalpha(Image.fromarray(np.broadcast_to(np.uint8(alpha), LEVELS.shape).copy()))
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("alpha", [0, 1, RAMP > 0.5])
def test_alpha__that_would_hide_everything_is_ignored(tmp_path: Path, alpha: Array | int, mode: str) -> None:
    with_alpha(alpha, mode).save(tmp_path / "a.png")
    assert (seen(tmp_path / "a.png") == LEVELS).all()
    assert info_of(tmp_path / "a.png").reading == "its alpha channel would hide everything and is ignored"


def test_alpha__of_a_mask_is_counted(tmp_path: Path) -> None:
    with_alpha(np.where(RAMP > 0.25, 255, 0)).save(tmp_path / "mask.png")
    assert info_of(tmp_path / "mask.png").hidden == pytest.approx(0.25, abs=0.01)
    cut_out = np.where(RAMP[..., None] > 0.25, np.asarray(with_alpha(255)), np.uint8(0))
    Image.fromarray(cut_out).save(tmp_path / "cut_out.png")
    assert info_of(tmp_path / "cut_out.png").hidden == 0


def test_tiff__of_a_kind_that_nobody_reads_is_called_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", LEVELS)
    retag(path, 258, 7)
    with pytest.raises(UnreadableImage, match=r"of a kind that Pillow cannot read: copy it again, or convert it"):
        read_rgb(path)


def test_transparent_value__of_16_bit_grayscale(tmp_path: Path) -> None:
    samples = LEVELS.astype(np.uint16) * 257
    Image.fromarray(samples).save(tmp_path / "a.png", transparency=0)
    assert (seen(tmp_path / "a.png") == np.where(LEVELS == 0, 255, LEVELS)).all()
    assert info_of(tmp_path / "a.png").reading == "samples of one value are transparent"


def test_lab__is_converted(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (200, 60, 30)).convert("LAB").save(tmp_path / "a.tif")
    assert np.allclose(np.asarray(read_rgb(tmp_path / "a.tif"))[0, 0], (200, 60, 30), atol=3)


def test_ordinary_image__is_read_as_usual(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", LEVELS)
    assert (info_of(path).reading, info_of(path).hidden, info_of(path).at) == ("", 0, {})
