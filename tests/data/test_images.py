from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from PIL import Image

from headstart.data.images import read_rgb
from headstart.errors import UnreadableImage


def pixel(path: Path, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = read_rgb(path)
    assert image.mode == "RGB"
    value = image.getpixel(at)
    assert isinstance(value, tuple)
    return value


def test_read_rgb__grayscale(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 77).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == (77, 77, 77)


def test_read_rgb__one_bit(tmp_path: Path) -> None:
    Image.new("1", (4, 4), 1).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == (255, 255, 255)


def test_read_rgb__palette(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == (10, 200, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_read_rgb__transparent_areas_become_white(tmp_path: Path, mode: str) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == (255, 255, 255)


def test_read_rgb__transparent_palette(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9])
    image.save(tmp_path / "a.png", transparency=0)
    assert pixel(tmp_path / "a.png") == (255, 255, 255)


def test_read_rgb__cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = pixel(tmp_path / "a.jpg")
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_read_rgb__16_bit_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    Image.fromarray(np.full((4, 4), 0x4D12, np.uint16)).save(tmp_path / name)
    assert pixel(tmp_path / name) == (0x4D, 0x4D, 0x4D)


def test_read_rgb__rotated_upright_by_exif(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise
    image.save(tmp_path / "a.png", exif=exif)
    assert read_rgb(tmp_path / "a.png").size == (4, 8)
    assert pixel(tmp_path / "a.png", (0, 0)) == (255, 255, 255)
    assert pixel(tmp_path / "a.png", (0, 7)) == (0, 0, 0)


def test_read_rgb__first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path / "a.gif") == (255, 0, 0)


def damaged(folder: Path, kind: str) -> Path:
    """A damaged file of the given kind with the extension of an image."""
    path = folder / f"{kind}.jpg"
    draw(path, (10, 20, 30), seed=0, size=(200, 200))
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "text": b"hello\n" * 100}[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "truncated", "text"])
def test_unreadable__one_line_that_names_the_file(tmp_path: Path, kind: str) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(UnreadableImage) as caught:
        read_rgb(path)
    assert str(caught.value).startswith(f"{path} cannot be read as an image: ")
    assert "\n" not in str(caught.value)
