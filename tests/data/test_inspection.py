import json
import os
from pathlib import Path

import pytest
from faulty import photo
from PIL import Image

from headstart.data import inspection
from headstart.data.inspection import Facts, inspect_all


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "headstart" / "audit"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    seen: list[str] = []
    look_at = inspection._look_at

    def spy(path: Path, content: bytes, sha256: str) -> Facts:
        seen.append(path.name)
        return look_at(path, content, sha256)

    monkeypatch.setattr(inspection, "_look_at", spy)
    return seen


def test_facts(cache: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 1, size=(64, 40))
    facts = inspect_all(tmp_path, ["a.jpg"])["a.jpg"]
    assert (facts.format, facts.width, facts.height, facts.frames, facts.orientation) == ("JPEG", 64, 40, 1, 1)
    assert (facts.fault, facts.grey) == (None, False)
    assert facts.colours > 500
    assert facts.dominant < 0.2


def test_grey__also_where_the_file_has_colour_channels(cache: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 1, mode="L")
    photo(tmp_path / "b.png", 1, mode="L")
    photo(tmp_path / "c.jpg", 1)
    Image.open(tmp_path / "a.jpg").convert("RGB").save(tmp_path / "d.jpg")
    facts = inspect_all(tmp_path, ["a.jpg", "b.png", "c.jpg", "d.jpg"])
    assert [f.grey for f in facts.values()] == [True, True, False, True]


def test_kept__only_new_contents_are_decoded(cache: Path, tmp_path: Path, looks: list[str]) -> None:
    for number in range(3):
        photo(tmp_path / f"{number}.jpg", number)
    first = inspect_all(tmp_path, ["0.jpg", "1.jpg"])
    assert sorted(looks) == ["0.jpg", "1.jpg"]
    assert inspect_all(tmp_path, ["0.jpg", "1.jpg"]) == first
    assert len(looks) == 2
    (tmp_path / "0.jpg").rename(tmp_path / "renamed.jpg")
    assert inspect_all(tmp_path, ["renamed.jpg", "2.jpg"])["renamed.jpg"] == first["0.jpg"]
    assert looks[2:] == ["2.jpg"]


def test_kept__a_changed_picture_is_looked_at_again(cache: Path, tmp_path: Path, looks: list[str]) -> None:
    photo(tmp_path / "a.jpg", 1)
    times = (tmp_path / "a.jpg").stat()
    before = inspect_all(tmp_path, ["a.jpg"])["a.jpg"]
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    content[-20] ^= 1
    (tmp_path / "a.jpg").write_bytes(bytes(content))
    os.utime(tmp_path / "a.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert inspect_all(tmp_path, ["a.jpg"])["a.jpg"].sha256 != before.sha256
    assert len(looks) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"head": {}, "facts": []}', '{"head": null}'])
def test_kept__damaged_or_outdated_is_made_again(cache: Path, tmp_path: Path, looks: list[str], content: str) -> None:
    photo(tmp_path / "a.jpg", 1)
    expected = inspect_all(tmp_path, ["a.jpg"])
    (kept,) = cache.glob("*.json")
    kept.write_text(content)
    assert inspect_all(tmp_path, ["a.jpg"]) == expected
    assert len(looks) == 2
    assert json.loads(kept.read_text())["facts"]


def test_kept__where_the_folder_cannot_be_written(cache: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", 1)
    cache.parent.parent.write_text("a file where the folder should be")
    assert inspect_all(tmp_path, ["a.jpg"])["a.jpg"].fault is None


def test_unreadable__one_that_is_gone(cache: Path, tmp_path: Path) -> None:
    facts = inspect_all(tmp_path, ["gone.jpg"])["gone.jpg"]
    assert (facts.fault, facts.reason) == ("unreadable", "No such file or directory")
    assert not list(cache.glob("*.json"))


def test_reason__does_not_name_the_path_it_was_found_at(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture at all")
    facts = inspect_all(tmp_path, ["a.jpg"])["a.jpg"]
    assert facts.fault == "not a picture"
    assert "a.jpg" not in (facts.reason or "")
