"""Fonts that have the characters of the class names: matplotlib's own, then those of the system."""

import functools
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

from headstart.errors import listed
from headstart.log import log

# What people call the scripts whose characters have these words in their Unicode names.
SCRIPTS = {
    "CJK": "Chinese",
    "HANGUL": "Korean",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "DEVANAGARI": "Hindi",
}
# In the names of font files: those with many characters come first, bold and slanted ones last.
BROAD = (
    "noto",
    "cjk",
    "unicode",
    "droid",
    "wqy",
    "nanum",
    "malgun",
    "gothic",
    "lohit",
    "mangal",
    "nirmala",
    "pingfang",
)
REGULAR = 400  # weight
STYLED = ("bold", "italic", "oblique", "black", "thin", "light", "condensed", "emoji", "lastresort")


@dataclass(frozen=True)
class Typeface:
    """Draws each character with the first of the fonts that has it."""

    paths: tuple[Path, ...]

    def width(self, text: str, size: int) -> float:
        """In pixels."""
        return sum(font.getlength(run) for font, run in self._runs(text, size))

    def draw(self, canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: str) -> None:
        """Draws `text` with its upper left corner at `place`."""
        x, top = place
        baseline = top + _font(self.paths[0], size).getmetrics()[0]
        for font, run in self._runs(text, size):
            canvas.text((x, baseline), run, font=font, fill=fill, anchor="ls")
            x += font.getlength(run)

    def _runs(self, text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
        """Parts of `text` with the font of each, so that the letters of a word stay together."""
        start, current = 0, self.paths[0]
        for end, character in enumerate(text):
            path = self._path_of(character, current)
            if path != current and end > start:
                yield _font(current, size), text[start:end]
                start = end
            current = path
        if start < len(text):
            yield _font(current, size), text[start:]

    def _path_of(self, character: str, current: Path) -> Path:
        code = ord(character)
        # Marks and joiners belong to the character before them.
        is_mark = unicodedata.category(character) in ("Mn", "Mc", "Cf", "Zs")
        order = (current, *self.paths) if is_mark else self.paths
        return next((path for path in order if code in _characters(path)), current if is_mark else self.paths[0])


def plain_typeface() -> Typeface:
    """The font that comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and more."""
    # Pillow's own font has Latin letters only.
    return Typeface((Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"),))


def typeface_for(texts: Iterable[str]) -> Typeface:
    """A typeface for `texts`; a message names the scripts for which this machine has no font."""
    plain = plain_typeface()
    missing = _missing("".join(texts), plain.paths)
    if not missing:
        return plain
    found = _system_fonts(missing)
    still_missing = _missing("".join(missing), found)
    if still_missing:
        scripts = listed(sorted({_script(character) for character in still_missing}))
        log.warning(
            "labels in %s cannot be drawn on images, because no font on this machine has their characters, such as %s: "
            "install one, for example Noto Sans",
            *(scripts, sorted(still_missing)[0]),
        )
    return Typeface((*plain.paths, *found))


def _missing(text: str, paths: Iterable[Path]) -> frozenset[str]:
    known = frozenset[int]().union(*map(_characters, paths))
    return frozenset(c for c in text if ord(c) not in known and unicodedata.category(c)[0] not in "CZ")


@functools.cache
def _system_fonts(missing: frozenset[str]) -> tuple[Path, ...]:
    """For each script the first of the system's fonts that has all of its characters, or the one that has most."""
    # Imported here because it makes a list of all fonts, which takes seconds when it does so for the first time.
    from matplotlib.font_manager import findSystemFonts

    by_script: dict[str, set[int]] = defaultdict(set)
    for character in missing:
        by_script[_script(character)].add(ord(character))
    best: dict[str, tuple[int, Path]] = {}
    for path in sorted(map(Path, findSystemFonts()), key=_preference):
        for script, codes in by_script.items():
            count = len(codes & _characters(path))
            if count > best.get(script, (0, path))[0]:
                best[script] = count, path
        if all(best.get(script, (0, path))[0] == len(codes) for script, codes in by_script.items()):
            break
    return tuple(dict.fromkeys(path for _, path in best.values()))


def _preference(path: Path) -> tuple[bool, bool, str]:
    name = path.name.lower()
    return any(word in name for word in STYLED), not any(word in name for word in BROAD), name


def _script(character: str) -> str:
    word = unicodedata.name(character, "unknown").split()[0]
    return SCRIPTS.get(word, word.capitalize())


@functools.cache
def _characters(path: Path) -> frozenset[int]:
    """The code points that a font has; none if it cannot be used."""
    try:
        # Some fonts, of bitmaps, have no size of their own choosing.
        _font(path, 12)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@functools.cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(path, size)
    # A font of variable weight begins with its thinnest.
    with suppress(OSError, NotImplementedError):
        axes = font.get_variation_axes()
        values = [REGULAR if axis["name"] == b"Weight" else axis["default"] or 0 for axis in axes]
        font.set_variation_by_axes([float(value) for value in values])
    return font
