"""Class names in any script, with the fonts that a machine has."""

import logging
from collections.abc import Iterator
from pathlib import Path

import matplotlib.font_manager
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder  # type: ignore[import-untyped]
from fontTools.pens.ttGlyphPen import TTGlyphPen  # type: ignore[import-untyped]
from PIL import Image, ImageDraw

from headstart.log import log
from headstart.report import style
from headstart.report.style import plain_typeface, typeface_for


def make_font(path: Path, characters: str) -> Path:
    """A font in which each of `characters` is a filled square."""
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for corner in ((50, 700), (750, 700), (750, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [f"uni{ord(character):04X}" for character in characters]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap(dict(zip(map(ord, characters), names, strict=True)))
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph()} | dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture(autouse=True)
def system_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The fonts that the system has: none at first."""
    found: list[Path] = []
    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: list(map(str, found)))
    style._system_fonts.cache_clear()
    yield found
    style._system_fonts.cache_clear()


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged."""
    collected: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: collected.append(record.getMessage()))
    monkeypatch.setattr(log, "handlers", [handler])
    return collected


def ink(typeface: style.Typeface, text: str) -> int:
    """How many pixels `text` covers."""
    image = Image.new("L", (400, 60))
    typeface.draw(ImageDraw.ImageDraw(image), (5, 5), text, 30, "white")
    return int((np.asarray(image) > 128).sum())


def test_latin_and_more__needs_no_font_of_the_system(messages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: pytest.fail("not needed"))
    assert typeface_for(["ant", "Käfer", "жираф", "καμήλα", "زرافة", "ant\tbee"]) == plain_typeface()
    assert messages == []


def test_other_scripts__take_the_font_that_has_them(
    system_fonts: list[Path], tmp_path: Path, messages: list[str]
) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    part, whole = make_font(tmp_path / "a.ttf", "长"), make_font(tmp_path / "b.ttf", "长颈鹿")
    bold, korean = make_font(tmp_path / "ab-bold.ttf", "长颈鹿"), make_font(tmp_path / "c.ttf", "기린")
    system_fonts += [tmp_path / "broken.ttf", part, bold, whole, korean]
    typeface = typeface_for(["长颈鹿", "기린 giraffe"])
    assert typeface.paths == (*plain_typeface().paths, whole, korean)
    assert messages == []
    # Three squares of about 21 × 21 pixels.
    assert ink(typeface, "长颈鹿") == pytest.approx(3 * 21**2, rel=0.1)
    assert ink(typeface, "长 giraffe") > ink(plain_typeface(), "giraffe") + 400
    assert typeface.width("长颈鹿", 30) == pytest.approx(72, abs=3)


def test_other_scripts__without_a_font_are_named_once(messages: list[str]) -> None:
    typeface_for(["长颈鹿", "기린", "कुत्ता", "ant"])
    (message,) = messages
    assert message.startswith("labels in Chinese, Hindi, Korean cannot be drawn on images")
    assert "install one" in message


def test_other_scripts__partly(system_fonts: list[Path], tmp_path: Path, messages: list[str]) -> None:
    font = make_font(tmp_path / "a.ttf", "长")
    system_fonts.append(font)
    assert font in typeface_for(["长", "기린"]).paths
    assert "labels in Korean cannot" in messages[0]
