"""What pages and charts share: colours, fonts, templates, thumbnails."""

import base64
import io
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torchvision.transforms.v2 import functional

from headstart.data.images import read_rgb
from headstart.data.manifest import Split
from headstart.data.transforms import Transform
from headstart.errors import HeadstartError, UnreadableImage
from headstart.files import replacing
from headstart.fonts import typeface_for

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
