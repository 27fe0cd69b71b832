"""Files of which a part was never written, but that decode."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_files import png
from PIL import Image, ImageDraw

from headstart.data.image_info import ImageInfo, damage_of, gray_rows, inspect_images

LOSSLESS: dict[str, Any] = {"lossless": True}


def photo() -> Image.Image:
    generator = np.random.default_rng(3)
    smooth = Image.fromarray(generator.integers(0, 256, (5, 6, 3), np.uint8)).resize(
        (160, 120), Image.Resampling.BICUBIC
    )
    noise = generator.integers(-15, 16, (120, 160, 3))
    return Image.fromarray((np.asarray(smooth, int) + noise).clip(1, 254).astype(np.uint8))


def drawing(background: str) -> Image.Image:
    image = Image.new("RGB", (160, 120), background)
    ImageDraw.Draw(image).ellipse((30, 10, 80, 60), fill="red")
    return image


def saved(form: str, image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def info_of(folder: Path, content: bytes) -> ImageInfo:
    (folder / "image").write_bytes(content)
    return inspect_images(folder, ["image"])["image"]


def is_named(folder: Path, content: bytes) -> bool:
    info = info_of(folder, content)
    return bool(info.fault or info.damage)


@pytest.mark.parametrize("form", ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"])
def test_zeros__in_place_of_a_part_are_named(tmp_path: Path, form: str) -> None:
    content = saved(form, photo())
    size = len(content)
    assert not is_named(tmp_path, content)
    assert is_named(tmp_path, content[: size // 2] + bytes(size - size // 2)), "second half"
    assert is_named(tmp_path, content[: size * 3 // 4] + bytes(size - size * 3 // 4)), "last quarter"
    assert is_named(tmp_path, content[: size // 3] + bytes(size // 3) + content[size // 3 * 2 :]), "middle"
    assert is_named(tmp_path, bytes(size // 2) + content[size // 2 :]), "first half"
    assert is_named(tmp_path, content[: size // 2] + b"\xff" * (size - size // 2)), "ones"
    assert not is_named(tmp_path, content + bytes(size)), "padded"


def test_zeros__are_said_as_a_share_of_the_file(tmp_path: Path) -> None:
    content = saved("BMP", photo())
    half = len(content) // 2
    assert info_of(tmp_path, content[:half] + bytes(half)).damage == (
        f"50% of the file, from byte {half:,} on, are all 0"
    )


@pytest.mark.parametrize("mode", ["RGBA", "L"])
@pytest.mark.parametrize("form", ["BMP", "TIFF"])
def test_zeros__in_files_with_other_channels(tmp_path: Path, form: str, mode: str) -> None:
    content = saved(form, photo().convert(mode))
    assert not is_named(tmp_path, content)
    assert is_named(tmp_path, content[: len(content) // 2] + bytes(len(content) // 2))


@pytest.mark.parametrize("background", ["black", "white", "gray"])
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("BMP", {}),
        ("TIFF", {}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", LOSSLESS),
        ("JPEG", {"optimize": True}),
        ("GIF", {}),
    ],
)
def test_drawing__on_a_uniform_background_is_not_named(
    tmp_path: Path, background: str, form: str, options: dict[str, Any]
) -> None:
    assert not is_named(tmp_path, saved(form, drawing(background), **options))


@pytest.mark.parametrize("border", ["black", "white"])
@pytest.mark.parametrize("form", ["BMP", "TIFF", "PNG", "JPEG"])
def test_photo__with_borders_is_not_named(tmp_path: Path, form: str, border: str) -> None:
    framed = Image.new("RGB", (160, 200), border)
    framed.paste(photo(), (0, 40))
    assert not is_named(tmp_path, saved(form, framed))


def test_metadata__full_of_zeros_are_not_named(tmp_path: Path) -> None:
    content = saved("JPEG", photo(), comment=bytes(40_000))
    assert bytes(30_000) in content
    assert not is_named(tmp_path, content)


def test_png__with_a_wrong_checksum_of_its_pixels(tmp_path: Path) -> None:
    content = bytearray(saved("PNG", photo()))
    content[content.index(b"IEND") - 5] ^= 1
    assert info_of(tmp_path, bytes(content)).damage == "the checksum of its pixels is wrong"
    assert damage_of(png(after=b""), 0) == ""


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_gray_rest__of_an_image_saved_again_is_named(tmp_path: Path, form: str) -> None:
    image = photo()
    image.paste((128, 128, 128), (0, 70, 160, 120))
    assert info_of(tmp_path, saved(form, image)).damage[:11] in ("the lower 3", "the lower 4")


def test_gray_rows__not_of_a_gray_image() -> None:
    grid = np.full((32, 32, 3), 128, np.uint8)
    assert gray_rows(grid) == 0
    grid[:16] = 40
    assert gray_rows(grid) == 0.5
    grid[:, 16:] = 128
    assert gray_rows(grid) == 0
