"""The look that all charts of a run share."""

import warnings
from collections.abc import Iterable
from pathlib import Path

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from headstart.files import replacing
from headstart.fonts import typeface_for

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#7f7f7f"
DPI = 120
LONGEST = 22  # characters of a label


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, which needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, completely or not at all."""
    with replacing(path) as temporary, warnings.catch_warnings():
        # headstart.fonts has already said which characters no font has.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=DPI)


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


def tidy(axes: Axes) -> None:
    """Leaves the lower left frame and a pale grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
