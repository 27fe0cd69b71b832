import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty import photo
from PIL import Image, ImageFile

from headstart.data import image_info
from headstart.data.image_info import inspect_images
from headstart.data.images import decode


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "headstart" / "audit"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    names: list[str] = []

    def spy(path: Path, content: bytes, use: Callable[[Image.Image], object]) -> object:
        names.append(path.name)
        return decode(path, content, use)

    monkeypatch.setattr(image_info, "decode", spy)
    return names


def test_info__of_a_photo(cache: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 1, size=(64, 40))
    info = inspect_images(tmp_path, ["a.jpg"])["a.jpg"]
    assert (info.format, info.width, info.height, info.frames, info.orientation) == ("JPEG", 64, 40, 1, 1)
    assert (info.fault, info.grayscale) == (None, False)
    assert info.colours > 500
    assert info.dominant < 0.2


def test_info__size_of_the_upright_image(cache: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40)).save(tmp_path / "a.jpg", exif=exif)
    info = inspect_images(tmp_path, ["a.jpg"])["a.jpg"]
    assert (info.width, info.height, info.orientation) == (40, 64, 6)


def test_grayscale__also_if_the_file_has_colour_channels(cache: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 1, mode="L")
    photo(tmp_path / "b.png", 1, mode="L")
    photo(tmp_path / "c.jpg", 1)
    Image.open(tmp_path / "a.jpg").convert("RGB").save(tmp_path / "d.jpg")
    infos = inspect_images(tmp_path, ["a.jpg", "b.png", "c.jpg", "d.jpg"])
    assert [info.grayscale for info in infos.values()] == [True, True, False, True]


def test_cache__only_new_contents_are_decoded(cache: Path, tmp_path: Path, decoded: list[str]) -> None:
    for number in range(3):
        photo(tmp_path / f"{number}.jpg", number)
    first = inspect_images(tmp_path, ["0.jpg", "1.jpg"])
    assert sorted(decoded) == ["0.jpg", "1.jpg"]
    assert inspect_images(tmp_path, ["0.jpg", "1.jpg"]) == first
    assert len(decoded) == 2
    (tmp_path / "0.jpg").rename(tmp_path / "renamed.jpg")
    assert inspect_images(tmp_path, ["renamed.jpg", "2.jpg"])["renamed.jpg"] == first["0.jpg"]
    assert decoded[2:] == ["2.jpg"]


def test_cache__a_changed_image_is_decoded_again(cache: Path, tmp_path: Path, decoded: list[str]) -> None:
    photo(tmp_path / "a.jpg", 1)
    times = (tmp_path / "a.jpg").stat()
    before = inspect_images(tmp_path, ["a.jpg"])["a.jpg"]
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    content[-20] ^= 1
    (tmp_path / "a.jpg").write_bytes(bytes(content))
    os.utime(tmp_path / "a.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert inspect_images(tmp_path, ["a.jpg"])["a.jpg"].sha256 != before.sha256
    assert len(decoded) == 2


@pytest.mark.parametrize("head", ["", "{", "[]", '{"version": 0}', "null", "\udc80"])
def test_cache__is_replaced_if_damaged_or_outdated(cache: Path, tmp_path: Path, decoded: list[str], head: str) -> None:
    photo(tmp_path / "a.jpg", 1)
    expected = inspect_images(tmp_path, ["a.jpg"])
    (file,) = cache.glob("*.jsonl")
    whole = file.read_text()
    file.write_text(f"{head}\n{whole.partition(chr(10))[2]}", errors="surrogateescape")
    assert inspect_images(tmp_path, ["a.jpg"]) == expected
    assert len(decoded) == 2
    assert file.read_text() == whole


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"sha256": "a", "unknown": 1}'])
def test_cache__what_follows_a_damaged_line_is_inspected_again(
    cache: Path, tmp_path: Path, decoded: list[str], line: str
) -> None:
    names = [f"{number}.jpg" for number in range(3)]
    for number, name in enumerate(names):
        photo(tmp_path / name, number)
    expected = inspect_images(tmp_path, names)
    (file,) = cache.glob("*.jsonl")
    whole = file.read_text()
    head, first, *_ = whole.splitlines()
    file.write_text(f"{head}\n{first}\n{line}")
    assert inspect_images(tmp_path, names) == expected
    assert sorted(decoded[3:]) == names[1:]
    assert file.read_text() == whole


def test_cache__not_needed_if_its_folder_cannot_be_written(cache: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 1)
    cache.parent.parent.write_text("a file where the folder should be")
    assert inspect_images(tmp_path, ["a.jpg"])["a.jpg"].fault is None


def test_unreadable__missing_file(cache: Path, tmp_path: Path) -> None:
    info = inspect_images(tmp_path, ["gone.jpg"])["gone.jpg"]
    assert (info.fault, info.reason) == ("missing file", "No such file or directory")
    assert not cache.exists()


def test_reason__does_not_name_the_path(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image at all")
    info = inspect_images(tmp_path, ["a.jpg"])["a.jpg"]
    assert (info.fault, info.reason) == ("not an image", "its content is not a known image format")


@pytest.mark.parametrize("first", [False, True])
def test_cache__not_of_another_setting_of_pillow(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    photo(tmp_path / "a.jpg", 1, size=(200, 200))
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    for truncated in (first, not first):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", truncated)
        fault = inspect_images(tmp_path, ["a.jpg"])["a.jpg"].fault
        assert fault == (None if truncated else "truncated")


def test_cache__not_of_another_reader(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.jpg", 1)
    inspect_images(tmp_path, ["a.jpg"])
    (before,) = (json.loads(file.read_text().splitlines()[0]) for file in cache.glob("*.jsonl"))
    reader = type("Reader", (), {"__module__": "pillow_other.plugin"})
    monkeypatch.setitem(Image.OPEN, "QOI", (reader, None))
    photo(tmp_path / "b.jpg", 2)
    inspect_images(tmp_path, ["a.jpg", "b.jpg"])
    (after,) = (json.loads(file.read_text().splitlines()[0]) for file in cache.glob("*.jsonl"))
    assert "plugins" not in before
    assert after["plugins"] == {"QOI": "pillow_other of no known version"}
