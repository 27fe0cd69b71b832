"""Contact sheets: many images on one, each above its prediction."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw

from headstart.data.images import read_rgb
from headstart.errors import UnreadableImage
from headstart.fonts import typeface_for
from headstart.marker import PREDICTIONS, claim, remove
from headstart.predict.drawings import save
from headstart.predict.prediction import Prediction
from headstart.text import on_one_line

COLUMNS, ROWS = 8, 5
TILE, CAPTION, GAP = 200, 54, 10  # pixels
FONT = 14  # pixels
INK, DOUBTED, PAPER = "#1c1e21", "#b24700", "white"


class ContactSheets:
    """Writes output/contact_sheets/1.jpg, 2.jpg and so on, of COLUMNS × ROWS images each, read with `depth`."""

    def __init__(self, output: Path, classes: Iterable[str], depth: int) -> None:
        self._folder, self._depth = output / "contact_sheets", depth
        claim(self._folder, PREDICTIONS)
        # Else those of an earlier source, if it had more images, would stay.
        for earlier in self._folder.glob("*.jpg"):
            remove(earlier)
        self._typeface = typeface_for(classes)
        self._tiles: list[Image.Image] = []
        self._count = 0

    def add(self, prediction: Prediction) -> Prediction:
        """Puts an image on the current sheet, if it was predicted, and returns the prediction."""
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
        """`text`, its middle left out if it is wider than a tile."""
        kept, short = len(text), text
        while self._typeface.width(short, FONT) > TILE and kept > 2:
            kept -= 1
            short = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
        return short
