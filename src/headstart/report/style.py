"""What pages and charts share: fonts for any script, the look of charts, templates, small images."""

import base64
import functools
import io
import itertools
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image, ImageDraw, ImageFont

from headstart.errors import listed
from headstart.files import replacing
from headstart.log import log

# Fonts that have the characters of the class names: matplotlib's own, then those of the system.

# What people call the scripts whose characters have these words in their Unicode names.
SCRIPTS = {
    **{"CJK": "Chinese", "HANGUL": "Korean", "DEVANAGARI": "Hindi"},
    **dict.fromkeys(("HIRAGANA", "KATAKANA"), "Japanese"),
}
# In the names of font files: those with many characters come first, bold and slanted ones last.
BROAD = (
    *("noto", "cjk", "unicode", "droid", "wqy", "nanum", "malgun", "gothic"),
    *("lohit", "mangal", "nirmala", "pingfang"),
)
REGULAR = 400  # weight
STYLED = ("bold", "italic", "oblique", "black", "thin", "light", "condensed", "emoji", "lastresort")


@dataclass(frozen=True)
class Typeface:
    """Draws each character with the first of the fonts that has it."""

    paths: tuple[Path, ...]

    def width(self, text: str, size: int) -> float:
        """Returns the width of `text` in pixels."""
        return sum(font.getlength(run) for font, run in self._runs(text, size))

    def draw(self, canvas: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int, fill: str) -> None:
        """Draws `text` with its upper left corner at `place`."""
        x, top = place
        baseline = top + _font(self.paths[0], size).getmetrics()[0]
        for font, run in self._runs(text, size):
            canvas.text((x, baseline), run, font=font, fill=fill, anchor="ls")
            x += font.getlength(run)

    def _runs(self, text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
        """Yields parts of `text` with the font of each, so that the letters of a word stay together."""
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
    """Returns the font that comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and more, unlike Pillow's."""
    return Typeface((Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"),))


def typeface_for(texts: Iterable[str]) -> Typeface:
    """Returns a typeface for `texts`; a message names the scripts for which this machine has no font."""
    plain = plain_typeface()
    missing = _missing("".join(texts), plain.paths)
    if not missing:
        return plain
    fonts = _system_fonts(missing)
    still_missing = _missing("".join(missing), fonts)
    if still_missing:
        scripts = listed(sorted({_script(character) for character in still_missing}))
        log.warning(
            "labels in %s cannot be drawn on images, because no font on this machine has their characters, such as %s: "
            "install one, for example Noto Sans",
            *(scripts, sorted(still_missing)[0]),
        )
    return Typeface((*plain.paths, *fonts))


def _missing(text: str, paths: Iterable[Path]) -> frozenset[str]:
    known = frozenset[int]().union(*map(_characters, paths))
    return frozenset(c for c in text if ord(c) not in known and unicodedata.category(c)[0] not in "CZ")


@functools.cache
def _system_fonts(missing: frozenset[str]) -> tuple[Path, ...]:
    """Returns for each script the first of the system's fonts that has all of its characters, or most of them."""
    by_script: dict[str, set[int]] = defaultdict(set)
    for character in missing:
        by_script[_script(character)].add(ord(character))
    best: dict[str, tuple[int, Path]] = {}
    for path in sorted(map(Path, font_manager.findSystemFonts()), key=_preference):
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
    """Returns the code points that a font has; none if it cannot be used."""
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


# The look that all charts share.

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"
DPI = 120
LONGEST = 22  # characters of a label
ROUNDS = 60  # of moving texts apart


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yields a figure of this size in inches, which needs no display, and saves it as a PNG, completely or not at all.

    It looks the same whatever the user's matplotlibrc or the surrounding program has set (`text.usetex` needs LaTeX).
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with replacing(path) as temporary, _about_glyphs_silent():
            figure.savefig(temporary, format="png", dpi=DPI)


@contextmanager
def _about_glyphs_silent() -> Iterator[None]:
    """Suppresses warnings of characters that no font has, which `typeface_for` has named."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def families(texts: Iterable[str]) -> list[str]:
    """Returns the font families that together have the characters of `texts`, for matplotlib."""
    names = []
    for path in typeface_for(texts).paths:
        font_manager.fontManager.addfont(path)
        names.append(font_manager.FontProperties(fname=path).get_name())
    return names


def short(text: str) -> str:
    """Returns `text` on one line, its middle left out if it is long, and without markup."""
    # matplotlib would read what is between dollars as a formula.
    return cut(" ".join(text.split()), LONGEST).replace("$", r"\$")


def cut(text: str, longest: int) -> str:
    """Returns `text`, its middle left out if it is longer than `longest` characters."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def push_apart(texts: Sequence[Text]) -> None:
    """Moves texts up and down until none is over another, or as far as a few rounds take them."""
    figure = texts[0].get_figure(root=True) if texts else None
    if figure is None:
        return
    with _about_glyphs_silent():
        figure.canvas.draw()
    for _ in range(ROUNDS):
        boxes = [text.get_window_extent() for text in texts]
        moves = dict.fromkeys(range(len(texts)), 0.0)
        for first, second in itertools.combinations(range(len(texts)), 2):
            if boxes[first].overlaps(boxes[second]):
                middles = [box.y0 + box.height / 2 for box in (boxes[first], boxes[second])]
                missing = boxes[first].height + 2 - abs(middles[0] - middles[1])
                upper, lower = (first, second) if middles[0] >= middles[1] else (second, first)
                moves[upper] += missing / 2
                moves[lower] -= missing / 2
        if not any(moves.values()):
            return
        for index, move in moves.items():
            text = texts[index]
            x, y = text.get_transform().transform(text.get_position())
            text.set_y(text.get_transform().inverted().transform((x, y + move))[1])


def tidy(axes: Axes) -> None:
    """Leaves the lower left frame and a pale grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


# HTML from the templates in this folder, and the images inside it.

SIDE = 144  # pixels


def render(template: str, **values: Any) -> str:
    """Returns the page that `template` makes of `values`; names that are not UTF-8 get a replacement character."""
    loader = PackageLoader("headstart", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(template).render(**values).encode("utf-8", "replace").decode()


def png_uri(path: Path) -> str:
    """Returns the PNG `path` as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def image_uri(image: Image.Image, side: int = SIDE) -> str:
    """Returns the image as a data URI, reduced to at most `side` pixels wide and high."""
    image.thumbnail((side, side))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
