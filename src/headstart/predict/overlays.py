"""A picture with its top classes written on it."""

import math
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from headstart.files import replacing
from headstart.predict.predictor import Prediction

SMALLEST_EDGE = 240  # pixels; smaller pictures are enlarged, or no text would be readable on them
MOST_PIXELS = 2e7  # of an enlarged picture: a strip of a few pixels' height would grow without end
SMALLEST_FONT = 11  # pixels
LINES_AN_EDGE = 18  # the text's height as a share of the short edge
WIDEST_PANEL = 0.95  # of the picture's width


def annotate(image: Image.Image, prediction: Prediction) -> Image.Image:
    """A copy of the RGB `image`, its classes and probabilities on a dark panel at the top right."""
    image = _enlarged(image)
    lines = [f"{name}  {p:.1%}" for name, p in zip(prediction.classes, prediction.probabilities, strict=True)]
    room = int(image.width * WIDEST_PANEL)
    font, lines = _fit(lines, max(SMALLEST_FONT, min(image.size) // LINES_AN_EDGE), room)
    margin = int(font.size * 0.5)
    step = int(font.size * 1.35)
    width = max(int(font.getlength(line)) for line in lines) + 2 * margin
    left = image.width - width
    # A panel of one's own is readable on any picture; a little of it shows through.
    panel = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(panel)
    draw.rectangle((left, 0, image.width, 2 * margin + step * len(lines)), fill=(0, 0, 0, 190))
    for number, line in enumerate(lines):
        place = (image.width - margin - font.getlength(line), margin + number * step)
        draw.text(place, line, font=font, fill="white" if number == 0 else (210, 210, 210))
    return Image.alpha_composite(image.convert("RGBA"), panel).convert("RGB")


def annotated_path(folder: Path, picture: Path, common: Path) -> Path:
    """Where the annotated `picture` goes: its place below `common`, as a JPEG."""
    relative = picture.relative_to(common)
    if relative.suffix.lower() not in (".jpg", ".jpeg"):
        relative = relative.with_name(f"{relative.name}.jpg")
    return folder / "annotated" / relative


def save(image: Image.Image, path: Path) -> None:
    """Writes a JPEG, whole or not at all."""
    with replacing(path) as temporary:
        image.save(temporary, format="JPEG", quality=92)


def _enlarged(image: Image.Image) -> Image.Image:
    scale = min(SMALLEST_EDGE / min(image.size), math.sqrt(MOST_PIXELS / (image.width * image.height)))
    if scale <= 1:
        return image
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def _fit(lines: list[str], size: int, room: int) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """The largest font, `size` pixels at most, whose `lines` fit into `room` pixels; at the smallest they are cut."""
    while True:
        font = _font(size)
        usable = room - font.size
        if max(font.getlength(line) for line in lines) <= usable:
            return font, lines
        if size <= SMALLEST_FONT:
            return font, [_shortened(line, font, usable) for line in lines]
        size = max(SMALLEST_FONT, int(size * 0.9))


def _shortened(line: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    name, _, probability = line.rpartition("  ")
    while name and font.getlength(f"{name}…  {probability}") > room:
        name = name[:-1]
    return line if font.getlength(line) <= room else f"{name}…  {probability}"


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font has Latin letters only; the one that comes with matplotlib has Greek, Cyrillic and more.
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
