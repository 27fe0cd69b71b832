import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from PIL import Image

from headstart.data import images
from headstart.data.image_info import inspect_images
from headstart.data.images import allowed_pixels, read_rgb
from headstart.errors import UnreadableImage

# pytest shows this warning, which the program suppresses because it rejects such an image anyway.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


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


@pytest.mark.parametrize("name", ["a.png", "a.tif", "big.tif", "a32.tif"])
@pytest.mark.parametrize("depth", [8, 12, 16])
def test_depth__gives_the_8_bit_version_of_the_image(tmp_path: Path, name: str, depth: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.png")
    kind = {"big.tif": ">u2", "a32.tif": "i4"}.get(name, "u2")
    deep = (pixels.astype(np.int64) << (depth - 8)) + np.random.default_rng(1).integers(0, 2 ** (depth - 8), (9, 7))
    Image.fromarray(deep.astype(kind)).save(tmp_path / name)
    assert read_rgb(tmp_path / name, depth).tobytes() == read_rgb(tmp_path / "plain.png").tobytes()


def test_depth__clips_what_is_brighter_and_leaves_8_bit_files_alone(tmp_path: Path) -> None:
    Image.fromarray(np.array([[4095, 5000, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png", 12).getcolors() == [(3, (255, 255, 255))]
    draw(tmp_path / "b.png", (10, 20, 30), 0)
    assert read_rgb(tmp_path / "b.png", 8).tobytes() == read_rgb(tmp_path / "b.png").tobytes()


@pytest.mark.parametrize(("most", "size"), [(20_000, (90, 90)), (5000, (45, 45)), (1400, (23, 23)), (507, (23, 23))])
def test_very_large_jpeg__is_read_at_reduced_size(tmp_path: Path, most: int, size: tuple[int, int]) -> None:
    draw(tmp_path / "a.jpg", (200, 50, 40), 0, size=(180, 180))
    with allowed_pixels(most):
        image = read_rgb(tmp_path / "a.jpg")
    assert image.size == size
    assert np.allclose(np.asarray(image).mean((0, 1)), np.asarray(read_rgb(tmp_path / "a.jpg")).mean((0, 1)), atol=2)


def test_very_large_jpeg__beyond_an_eighth_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg", (200, 50, 40), 0, size=(180, 180))
    with allowed_pixels(500), pytest.raises(UnreadableImage, match=r"180 × 180 .*; data.max_pixels=32400 allows them"):
        read_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize("most", [20_000, 1000])
def test_very_large__other_formats_need_the_setting(tmp_path: Path, most: int) -> None:
    draw(tmp_path / "a.png", (200, 50, 40), 0, size=(180, 180))
    with allowed_pixels(most), pytest.raises(UnreadableImage, match=r"data.max_pixels=\S+ allows") as caught:
        read_rgb(tmp_path / "a.png")
    assert caught.value.fault == "decompression bomb"
    with allowed_pixels(32_400):
        assert read_rgb(tmp_path / "a.png").size == (180, 180)
    before = Image.MAX_IMAGE_PIXELS
    with allowed_pixels(None):
        assert before == Image.MAX_IMAGE_PIXELS


def test_file_of_40_gb__is_refused_without_being_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    os.truncate(tmp_path / "a.jpg", 40 * 10**9)
    with pytest.raises(
        UnreadableImage, match=r"its 40\.0 GB are more than the 1\.4 GB .*; data.max_pixels=2500000000"
    ) as e:
        read_rgb(tmp_path / "a.jpg")
    assert e.value.fault == "file too large"


def test_small_limit_on_pixels__is_none_on_ordinary_files(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", (200, 50, 40), 0, size=(20, 20))
    with allowed_pixels(400):
        assert read_rgb(tmp_path / "a.png").size == (20, 20)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_pipes_and_devices__are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "a.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        socket.socket(socket.AF_UNIX).bind("a.jpg")
    with pytest.raises(UnreadableImage, match="it is not a regular file, but a pipe, a socket or a device"):
        read_rgb(path)
    assert inspect_images(tmp_path, ["a.jpg"])["a.jpg"].fault == "unreadable"


def test_huge_member_of_an_archive__is_refused_without_being_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/a.jpg", bytes(1700))
    monkeypatch.setattr(images, "DEFAULT_PIXELS", 100)
    monkeypatch.setattr(images, "read_file", None)
    with allowed_pixels(100), pytest.raises(UnreadableImage, match=r"data\.max_pixels=107 allows them") as caught:
        read_rgb(tmp_path / "a.zip" / "x" / "a.jpg")
    assert caught.value.fault == "file too large"
