import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from archived import tar_of, tar_with, zip_of, zip_with

from headstart.data.archives import Archive
from headstart.errors import HeadstartError

CONTENT = b"0123456789" * 200


def archive_with(path: Path, name: str, content: bytes = CONTENT) -> Path:
    return (zip_with if path.suffix == ".zip" else tar_with)(path, [(name, content)])


def why_not(path: Path) -> str:
    with pytest.raises(HeadstartError) as caught:
        Archive(str(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "ant").mkdir(parents=True)
    (tmp_path / "images" / "ant" / "1.jpg").write_bytes(CONTENT)
    (tmp_path / "images" / "ant" / "empty.jpg").write_bytes(b"")
    return tmp_path / "images"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip__of_any_usual_method(folder: Path, tmp_path: Path, method: int) -> None:
    archive = Archive(str(zip_of(folder, tmp_path / "a.zip", method=method)))
    assert archive.read("ant/1.jpg") == CONTENT
    assert archive.read("ant/empty.jpg") == b""


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar__of_any_format(folder: Path, tmp_path: Path, form: int) -> None:
    long = "very/" * 40 + "long.jpg"
    (folder / long).parent.mkdir(parents=True)
    (folder / long).write_bytes(b"long")
    archive = Archive(str(tar_of(folder, tmp_path / "a.tar", format=form)))
    assert archive.read("ant/1.jpg") == CONTENT
    assert archive.read("ant/empty.jpg") == b""
    assert archive.read(long) == b"long"


def test_zip64(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("1.jpg", "w", force_zip64=True) as file:
        file.write(CONTENT)
    assert Archive(str(path)).read("1.jpg") == CONTENT


def test_zip__after_another_file(folder: Path, tmp_path: Path) -> None:
    path = zip_of(folder, tmp_path / "a.zip")
    path.write_bytes(b"PK\3\4 anything" + path.read_bytes())
    assert Archive(str(path)).read("ant/1.jpg") == CONTENT


def test_names__of_zip_that_are_utf8_without_saying_so(tmp_path: Path) -> None:
    path = archive_with(tmp_path / "a.zip", "KXfer/1.jpg")
    # As macOS writes them.
    path.write_bytes(path.read_bytes().replace(b"KXfer/1", b"K\xc3\xa4fer/"))
    assert [entry.name for entry in Archive(str(path)).entries("")] == ["Käfer"]


def test_names__of_zip_in_the_code_page_of_dos(tmp_path: Path) -> None:
    path = archive_with(tmp_path / "a.zip", "KXfer/1.jpg")
    path.write_bytes(path.read_bytes().replace(b"KXfer", b"K\x84fer"))
    assert [entry.name for entry in Archive(str(path)).entries("")] == ["Käfer"]


def test_names__of_zip_with_backslashes(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("ant\\1.jpg")
    info.create_system = 0
    assert Archive(str(zip_with(tmp_path / "a.zip", [(info, CONTENT)]))).read("ant/1.jpg") == CONTENT
    info = zipfile.ZipInfo("a\\1.jpg")
    info.create_system = 3
    assert Archive(str(zip_with(tmp_path / "b.zip", [(info, CONTENT)]))).read("a\\1.jpg") == CONTENT


def test_names__of_tar_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("K\udce4fer.jpg"))
    assert [entry.name for entry in Archive(str(path)).entries("")] == ["K\udce4fer.jpg"]


@pytest.mark.parametrize("kept", [30, 1000, -1, -30])
def test_truncated__zip(folder: Path, tmp_path: Path, kept: int) -> None:
    path = zip_of(folder, tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[:kept])
    assert "not a complete zip archive: copy or download it again" in why_not(path)


def test_truncated__tar_anywhere(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "a.tar", [(f"{number}.jpg", CONTENT) for number in range(2)])
    content = path.read_bytes()
    for kept in (600, 512 + 2000, 2560, 2560 + 100, 2560 + 512, 2560 + 512 + 1999, 2 * 2560):
        path.write_bytes(content[:kept])
        assert "not a complete tar archive: copy or download it again" in why_not(path)


def test_damaged__header_of_tar(tmp_path: Path) -> None:
    path = tar_with(tmp_path / "a.tar", [(f"{number}.jpg", CONTENT) for number in range(3)])
    content = bytearray(path.read_bytes())
    content[2560 + 150] ^= 0xFF
    path.write_bytes(content)
    assert "is damaged" in why_not(path)
    assert "byte 2560" in why_not(path)


def test_damaged__file_in_zip(folder: Path, tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        path = zip_of(folder, tmp_path / "a.zip", method=method)
        content = bytearray(path.read_bytes())
        content[80] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(OSError, match="damaged in the archive"):
            Archive(str(path)).read("ant/1.jpg")


def test_damaged__place_of_a_file_in_zip(tmp_path: Path) -> None:
    path = archive_with(tmp_path / "a.zip", "1.jpg")
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\1\2") + 42
    for start in (b"\7\0\0\0", b"\xff\xff\xff\x7f"):
        content[place : place + 4] = start
        path.write_bytes(content)
        with pytest.raises(OSError, match="damaged in the archive"):
            Archive(str(path)).read("1.jpg")


def test_damaged__file_in_zip_that_is_larger_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.jpg", bytes(10_000_000))
    size = struct.pack("<I", 10_000_000)
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 1000)))
    with pytest.raises(OSError, match="damaged in the archive"):
        Archive(str(path)).read("1.jpg")


def test_encrypted(folder: Path, tmp_path: Path) -> None:
    path = zip_of(folder, tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\1\2")
    content[place + 8] |= 1
    path.write_bytes(content)
    assert why_not(path) == f"{path} is encrypted: make a zip or tar archive without a password"


def test_unknown_method(folder: Path, tmp_path: Path) -> None:
    path = zip_of(folder, tmp_path / "a.zip", method=zipfile.ZIP_LZMA)
    assert "a method that cannot be read (lzma, of ant/" in why_not(path)


@pytest.mark.parametrize(("mode", "kind"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_compressed_tar__has_no_random_access(folder: Path, tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, "images")
    assert why_not(path) == (
        f"{path} is compressed as a whole ({kind}), so that single images cannot be read from it: decompress it to a "
        "tar archive, or make a zip archive"
    )


def test_other_archives__cannot_be_read(tmp_path: Path) -> None:
    for start, kind in ((b"7z\xbc\xaf\x27\x1c\0\4", "7z"), (b"Rar!\x1a\x07\1\0", "RAR")):
        (tmp_path / "a").write_bytes(start)
        assert f"is a {kind} archive, which cannot be read: unpack it, or make a zip" in why_not(tmp_path / "a")
