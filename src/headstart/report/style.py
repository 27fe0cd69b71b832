"""The look that all charts of a run share."""

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from headstart.files import replacing
from headstart.fonts import typeface_for

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
    """headstart.fonts has already said which characters no font has."""
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
