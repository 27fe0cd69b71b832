import io
from pathlib import Path

import pytest
from odd_files import good_image, saved

from headstart.data.folders import image_extensions, is_image, is_image_name, readable_formats
from headstart.data.images import read_rgb
from headstart.files import is_visible

SUFFIXES = {
    "JPEG": [".jpg", ".jpeg", ".JPG", ".jfif", ".jpe"],
    "PNG": [".png", ".apng"],
    "JPEG2000": [".jp2", ".j2k", ".jpx"],
    "AVIF": [".avif"],
    "TGA": [".tga"],
    "WEBP": [".webp"],
    "TIFF": [".tif", ".tiff"],
    "BMP": [".bmp", ".dib"],
    "GIF": [".gif"],
    "PPM": [".ppm", ".pnm"],
    "PCX": [".pcx"],
    "SGI": [".sgi"],
    "ICO": [".ico"],
    "DDS": [".dds"],
    "MPO": [".mpo"],
}
UNNAMED = [
    "photo",
    "photo.",
    "IMG_0001.JPG_large",
    "a.jpg?width=200",
    "2020.05.01",
    "image.dat",
    "image.bin",
    "a.webp x",
]


@pytest.mark.parametrize(("form", "suffix"), [(form, suffix) for form, all_ in SUFFIXES.items() for suffix in all_])
def test_extensions__what_pillow_reads(tmp_path: Path, form: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(saved(form))
    assert is_image_name(path)
    assert is_image(path)
    assert read_rgb(path).mode == "RGB"


@pytest.mark.parametrize(
    "name", ["a.pdf", "a.mpg", "a.h5", "a.ps", "a.eps", "a.wmf", "a.grib", "a.mp4", "a.txt", "a.py"]
)
def test_extensions__of_other_things(tmp_path: Path, name: str) -> None:
    # Whatever they hold.
    (tmp_path / name).write_bytes(saved("JPEG"))
    assert not is_image_name(name)
    assert not is_image(tmp_path / name)


@pytest.mark.parametrize("name", UNNAMED)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_content__where_the_name_does_not_say(tmp_path: Path, form: str, name: str) -> None:
    (tmp_path / name).write_bytes(saved(form))
    assert not is_image_name(name)
    assert is_image(tmp_path / name)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "JPEG2000"])
def test_content__a_damaged_image_is_one_too(tmp_path: Path, form: str) -> None:
    (tmp_path / "photo").write_bytes(saved(form)[:60])
    assert is_image(tmp_path / "photo")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"{}", b"P5 is a format", b"P6\nA plan", b"BMW is a car", b"Name: Bob\nScale: 1\n", b"GIF87"),
        *(b"#define x_width 4", b"II*", b"%PDF-1.7\n", b"%!PS-Adobe", b"\x89HDF\r\n\x1a\n" + bytes(99), bytes(200)),
    ],
)
def test_content__of_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not is_image(tmp_path / "file")


@pytest.mark.parametrize("name", ["a.jpg~", "a.jpg.bak", "a.jpg.part", "IMG_1.CR2", "IMG_1.dng", "a.png.crdownload"])
def test_content__backups_downloads_and_raw_photos_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(saved("JPEG"))
    assert not is_image(tmp_path / name)


def test_content__missing_file(tmp_path: Path) -> None:
    assert not is_image(tmp_path / "gone")
    assert is_image(tmp_path / "gone.jpg")


def test_formats__none_that_needs_another_program() -> None:
    assert {"JPEG", "PNG", "WEBP", "TGA"} <= set(readable_formats())
    assert not {"EPS", "HDF5", "MPEG", "WMF", "PDF"} & {*readable_formats(), *image_extensions().values()}


def test_postscript_called_jpg__is_not_run(tmp_path: Path) -> None:
    content = io.BytesIO()
    good_image().save(content, "EPS")
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    with pytest.raises(Exception, match="its content is not a known image format"):
        read_rgb(tmp_path / "a.jpg")


def test_is_image_name() -> None:
    assert is_image_name("a/b.JPG")
    assert is_image_name("b.gif")
    assert not is_image_name("a/._b.jpg")
    assert not is_image_name("notes.txt")


@pytest.mark.parametrize("name", [".git", "__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"])
def test_is_visible(name: str) -> None:
    assert is_visible("cat")
    assert not is_visible(name)
