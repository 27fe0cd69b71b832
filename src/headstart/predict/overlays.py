"""Drawings of predictions: classes written on images, saliency beside them, and contact sheets."""

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from headstart.config.predict import PredictSettings
from headstart.data.images import read_rgb
from headstart.errors import UnreadableImage
from headstart.files import PREDICTIONS, claim, remove, replacing
from headstart.machine import DISK_FULL
from headstart.predict.sources import Prediction, common_folder
from headstart.report.style import Typeface, plain_typeface, typeface_for
from headstart.text import on_one_line

SMALLEST_EDGE = 240  # pixels; smaller images are enlarged so that text on them is readable
LONGEST_EDGE = 65_500  # pixels; a JPEG cannot be larger
MOST_PIXELS = 2e7  # of an enlarged image: a strip a few pixels high would become enormous
SMALLEST_FONT = 11  # pixels
LINES_PER_EDGE = 18  # short edge by line height
WIDEST_PANEL = 0.95  # of the image's width
LARGEST_PANEL = 0.2  # of the image's area; more text goes below the image
Line = tuple[str, str]  # name and probability
FIRST, OTHERS = "white", "#d2d2d2"  # colours of the lines


def annotate(image: Image.Image, prediction: Prediction, typeface: Typeface | None = None) -> Image.Image:
    """Returns a copy of the RGB `image` with its classes and probabilities on a dark panel at the top right.

    If the panel would hide more than a fifth of the image, a strip below the image takes its place.
    """
    image, typeface = _resized(image), typeface or plain_typeface()
    ranked = zip(prediction.classes, prediction.probabilities, strict=True)
    lines = [(on_one_line(name), f"{probability:.1%}") for name, probability in ranked]
    if prediction.doubt is not None:
        lines.append((prediction.doubt, ""))
    largest = min(image.size) // LINES_PER_EDGE
    for panel in _panels(lines, typeface, largest, int(image.width * WIDEST_PANEL)):
        if panel.width * panel.height <= LARGEST_PANEL * image.width * image.height:
            annotated = image.convert("RGBA")
            annotated.alpha_composite(panel, (max(0, image.width - panel.width), 0))
            return annotated.convert("RGB")
    width = max(image.width, SMALLEST_EDGE)
    strip = next(_panels(lines, typeface, largest, width))
    both = Image.new("RGB", (width, image.height + strip.height))
    both.paste(image, ((width - image.width) // 2, 0))
    both.paste(strip.convert("RGB"), (width - strip.width, image.height))
    return both


def _resized(image: Image.Image) -> Image.Image:
    """Enlarges a small image, and reduces one that is too large for a JPEG."""
    scale = min(SMALLEST_EDGE / min(image.size), math.sqrt(MOST_PIXELS / (image.width * image.height)))
    scale = min(max(scale, 1), LONGEST_EDGE / max(image.size))
    if scale == 1:
        return image
    width, height = (max(1, round(edge * scale)) for edge in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _panels(lines: list[Line], typeface: Typeface, largest: int, room: int) -> Iterator[Image.Image]:
    """Yields panels at most `room` pixels wide, in fonts from `largest` to the smallest, for which names are cut."""
    size = largest
    while size > SMALLEST_FONT:
        if (panel := _panel(lines, typeface, size)).width <= room:
            yield panel
        size = int(size * 0.9)
    cut = [_shortened(line, typeface, room - SMALLEST_FONT) for line in lines]
    yield _panel(cut, typeface, SMALLEST_FONT)


def _panel(lines: list[Line], typeface: Typeface, size: int) -> Image.Image:
    """Draws the lines right-aligned on a dark, slightly transparent background."""
    margin, step = int(size * 0.5), int(size * 1.35)
    widths = [_width(line, typeface, size) for line in lines]
    panel = Image.new("RGBA", (math.ceil(max(widths)) + 2 * margin, 2 * margin + step * len(lines)), (0, 0, 0, 190))
    canvas = ImageDraw.Draw(panel)
    for number, (line, width) in enumerate(zip(lines, widths, strict=True)):
        top, right, fill = margin + number * step, panel.width - margin, FIRST if number == 0 else OTHERS
        # Name and probability separately: a line that begins in Arabic would be drawn from right to left.
        typeface.draw(canvas, (right - width, top), line[0], size, fill)
        typeface.draw(canvas, (right - typeface.width(line[1], size), top), line[1], size, fill)
    return panel


def _width(line: Line, typeface: Typeface, size: int) -> float:
    return typeface.width(line[0], size) + size * 0.6 + typeface.width(line[1], size)


def _shortened(line: Line, typeface: Typeface, room: float) -> Line:
    """Returns `line`, its name cut with an ellipsis if it is wider than `room` in the smallest font."""
    name, probability = line
    while name and _width((f"{name}…", probability), typeface, SMALLEST_FONT) > room:
        name = name[:-1]
    return line if _width(line, typeface, SMALLEST_FONT) <= room else (f"{name}…", probability)


def explain(prediction: Prediction) -> Image.Image:
    """Draws the network's input and, beside it, the same under its saliency map.

    Raises:
        ValueError: the image was predicted without explain.
    """
    # PyTorch; this file is also used without it.
    from headstart.model.image_classifier import overlay

    seen, saliency = prediction.seen, prediction.saliency
    if seen is None or saliency is None:
        raise ValueError("predicted without explain")
    plain, gap = Image.fromarray(seen.permute(1, 2, 0).numpy()), 6
    both = Image.new("RGB", (2 * plain.width + gap, plain.height), "white")
    both.paste(plain, (0, 0))
    both.paste(overlay(seen, saliency), (plain.width + gap, 0))
    return both


# Contact sheets: many images on one page, each above its prediction.

COLUMNS, ROWS = 8, 5
TILE, CAPTION, GAP = 200, 54, 10  # pixels
FONT = 14  # pixels
INK, DOUBTED, PAPER = "#1c1e21", "#b24700", "white"


class ContactSheets:
    """Writes output/contact_sheets/1.jpg, 2.jpg and so on, of COLUMNS × ROWS images each, read with `depth`."""

    def __init__(self, output: Path, typeface: Typeface, depth: int) -> None:
        self._folder, self._typeface, self._depth = output / "contact_sheets", typeface, depth
        claim(self._folder, PREDICTIONS)
        # Those of an earlier, longer source must not remain.
        for earlier in self._folder.glob("*.jpg"):
            remove(earlier)
        self._tiles: list[Image.Image] = []
        self._count = 0

    def add(self, prediction: Prediction) -> Prediction:
        """Adds an image to the current sheet, unless it could not be read, and returns the prediction."""
        if prediction.classes:
            try:
                self._tiles.append(self._tile(prediction))
            except UnreadableImage:
                return prediction
        if len(self._tiles) == COLUMNS * ROWS:
            self.close()
        return prediction

    def close(self) -> None:
        """Writes the current sheet, if there is anything on it."""
        if not self._tiles:
            return
        columns, rows = min(COLUMNS, len(self._tiles)), -(-len(self._tiles) // COLUMNS)
        size = columns * (TILE + GAP) + GAP, rows * (TILE + CAPTION + GAP) + GAP
        sheet = Image.new("RGB", size, PAPER)
        for place, tile in enumerate(self._tiles):
            row, column = divmod(place, COLUMNS)
            sheet.paste(tile, (GAP + column * (TILE + GAP), GAP + row * (TILE + CAPTION + GAP)))
        self._count += 1
        save(sheet, self._folder / f"{self._count}.jpg")
        self._tiles = []

    def _tile(self, prediction: Prediction) -> Image.Image:
        image = read_rgb(prediction.path, self._depth)
        image.thumbnail((TILE, TILE))
        tile = Image.new("RGB", (TILE, TILE + CAPTION), PAPER)
        tile.paste(image, ((TILE - image.width) // 2, TILE - image.height))
        canvas = ImageDraw.Draw(tile)
        answer = f"{on_one_line(prediction.classes[0])} {prediction.probabilities[0]:.0%}"
        place = f"{prediction.path.parent.name}/{prediction.path.name}"
        lines = [(place, INK), (answer, INK), (prediction.doubt or "", DOUBTED)]
        for number, (line, colour) in enumerate(lines):
            text = self._fitting(on_one_line(line))
            self._typeface.draw(canvas, (0, TILE + 2 + number * (CAPTION // 3)), text, FONT, colour)
        return tile

    def _fitting(self, text: str) -> str:
        """Returns `text`, with an ellipsis in the middle if it is wider than a tile."""
        kept, short = len(text), text
        while self._typeface.width(short, FONT) > TILE and kept > 2:
            kept -= 1
            short = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
        return short


# What predict.py draws, and where.


@contextmanager
def drawings(
    settings: PredictSettings, paths: list[Path], classes: tuple[str, ...], depth: int
) -> Iterator[list[Callable[[Prediction], Prediction]]]:
    """Yields functions that draw a prediction, as `settings` ask, and return it, with an error if that failed."""
    output, draws = Path(str(settings.output)), list[Callable[[Prediction], Prediction]]()
    with ExitStack() as stack:
        if settings.annotate:
            typeface = typeface_for(classes)
            annotated = Drawings(
                output, "annotated", paths, lambda of: annotate(read_rgb(of.path, depth), of, typeface)
            )
            sheets = stack.enter_context(closing(ContactSheets(output, typeface, depth)))
            draws += [annotated.add, sheets.add]
        if settings.explain:
            draws.append(Drawings(output, "explained", paths, explain).add)
        yield draws


# Drawings have the same name as an image with one of these suffixes; other names get another suffix.
JPEG = (".jpg", ".jpeg")


class Drawings:
    """Writes the image that `draw` makes of each prediction to output/`kind`, in the subfolders of the images."""

    def __init__(self, output: Path, kind: str, paths: list[Path], draw: Callable[[Prediction], Image.Image]) -> None:
        self._folder, self._kind, self._draw = output / kind, kind, draw
        self._places = drawing_places(paths)
        claim(self._folder, PREDICTIONS)

    def add(self, prediction: Prediction) -> Prediction:
        """Draws a prediction, unless it has an error, and returns it, with an error if it could not be drawn.

        Raises:
            OSError: the disk is full.
        """
        if prediction.error is not None:
            return prediction
        try:
            save(self._draw(prediction), self._folder / self._places[prediction.path])
        # One image that fails must not keep the others from being drawn.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reason = f"{prediction.path} cannot be {self._kind}: {error or type(error).__name__}"
            return replace(prediction, error=reason)
        return prediction


def drawing_places(paths: list[Path]) -> dict[Path, Path]:
    """Returns the path of each image's drawing, relative to the folder of the drawings.

    It is the image's path below the common folder of all images. The drawing of 1.png is 1.png.jpg, or 1.png.jpg.jpg
    beside an image of that name.
    """
    # Absolute paths contain no "..", which would lead out of the folder of the drawings.
    whole = {path: Path(os.path.abspath(path)) for path in paths}
    common = common_folder(list(whole.values()))
    relative = {path: place.relative_to(common) for path, place in whole.items()}
    places = {path: place for path, place in relative.items() if place.suffix.lower() in JPEG}
    taken = set(places.values())
    for path, place in relative.items():
        while path not in places:
            place = place.with_name(f"{place.name}.jpg")
            if place not in taken:
                places[path] = place
                taken.add(place)
    return places


def save(image: Image.Image, path: Path) -> None:
    """Writes a JPEG atomically."""
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=92)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
