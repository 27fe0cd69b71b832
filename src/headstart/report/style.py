"""What pages and charts share: colours, fonts for any script, templates, thumbnails."""

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
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2 import functional

from headstart.data.images import read_rgb
from headstart.data.manifest import Split
from headstart.data.transforms import Transform
from headstart.errors import HeadstartError, UnreadableImage, listed
from headstart.files import replacing
from headstart.log import log

# Fonts that have the characters of the class names: matplotlib's own, then those of the system.


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


# What pages and charts share: colours, fonts, templates, thumbnails.


# The look that all charts of a run share.


# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"
DPI = 120
ROUNDS = 60  # of moving texts apart
LONGEST = 22  # characters of a label


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of this size in inches, which needs no display, and which is saved as a PNG, completely or not at all.

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
    """headstart.report.style has already said which characters no font has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def families(texts: Iterable[str]) -> list[str]:
    """The font families that together have the characters of `texts`, for matplotlib."""
    names = []
    for path in typeface_for(texts).paths:
        font_manager.fontManager.addfont(path)
        names.append(font_manager.FontProperties(fname=path).get_name())
    return names


def short(text: str, longest: int = LONGEST) -> str:
    """`text` on one line, its middle left out if it is longer than `longest` characters, and without markup."""
    line = " ".join(text.split())
    half = (longest - 1) // 2
    cut = line if len(line) <= longest else f"{line[:half]}…{line[-half:]}"
    # matplotlib would read what is between dollars as a formula.
    return cut.replace("$", r"\$")


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


# HTML from the templates in this folder.


def render(template: str, **values: Any) -> str:
    """The page that `template` makes of `values`; names that are not UTF-8 get a replacement character."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values).encode("utf-8", "replace").decode()


def _source(name: str) -> str:
    return files("headstart.report").joinpath(name).read_text(encoding="utf-8")


# Small images inside the report's page.


SIDE = 144  # pixels


def thumbnail(path: Path, depth: int) -> str | None:
    """The image in a file as a data URI, at most SIDE pixels wide and high; None: it can no longer be read."""
    try:
        return image_uri(read_rgb(path, depth))
    except UnreadableImage:
        return None


def view_of(split: Split, transform: Transform, view: int, index: int) -> str | None:
    """What `transform` makes of an image, which the network sees; None: the image has changed, or is gone."""
    try:
        image = split.read(index, transform.depth)
    except HeadstartError:
        return None
    return image_uri(functional.to_pil_image(transform(image, view, index)))


def png_uri(path: Path) -> str:
    """The PNG `path` as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def image_uri(image: Image.Image) -> str:
    """The image as a data URI, reduced to at most SIDE pixels wide and high."""
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
