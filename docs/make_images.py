"""Makes the README's images from the data and the annotated predictions of the quickstart.

python docs/make_images.py data/shapes predictions
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torchvision.transforms.v2.functional import to_pil_image

from headstart.data.dataset import Preprocessing, TrainTransform
from headstart.data.images import read_rgb

HERE = Path(__file__).parent
COLUMNS = 5
GAP = 4  # pixels between tiles
# The quickstart's preprocessing.
PREPROCESSING = Preprocessing(resize_size=112, image_size=96)
Tile = tuple[Image.Image, str]


def classes(data: Path) -> Iterable[Tile]:
    """The first two training images of each class."""
    for number in (0, 1):
        for folder in sorted((data / "train").iterdir()):
            yield read_rgb(sorted(folder.iterdir())[number]), folder.name.replace("_", " ")


def views(data: Path) -> Iterable[Tile]:
    """One image, and the views of it that the first epochs train on."""
    image = read_rgb(min((data / "train" / "dotted_star").iterdir()))
    yield image, "the image"
    augment = TrainTransform(PREPROCESSING, seed=0)
    for epoch in range(2 * COLUMNS - 1):
        yield to_pil_image(augment(image, epoch, 0)), f"epoch {epoch + 1}"


def predictions(folder: Path) -> Iterable[Tile]:
    """A row with one image of each shape, and a row of those that are misclassified or have the lowest confidence."""
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    print(f"{sum(not is_correct(line) for line in lines)} of {len(lines)} are misclassified")
    doubtful = sorted(lines, key=lambda line: (is_correct(line), line["predictions"][0]["prob"]))[:COLUMNS]
    by_shape = {class_of(line).split("_")[1]: line for line in lines if line not in doubtful}
    for line in [*by_shape.values(), *doubtful]:
        name = class_of(line)
        yield read_rgb(folder / "annotated" / name / Path(line["path"]).name), name.replace("_", " ")


def class_of(line: dict[str, Any]) -> str:
    return Path(line["path"]).parent.name


def is_correct(line: dict[str, Any]) -> bool:
    return bool(line["predictions"][0]["label"] == class_of(line))


def write_sheet(tiles: Iterable[Tile], edge: int, path: Path) -> None:
    """Writes a JPEG of square tiles with captions, five per row."""
    tiles, font = list(tiles), ImageFont.load_default(14)
    rows, step = -(-len(tiles) // COLUMNS), edge + 20 + GAP
    page = Image.new("RGB", (COLUMNS * (edge + GAP) - GAP, rows * step - GAP), "white")
    draw = ImageDraw.Draw(page)
    for number, (image, caption) in enumerate(tiles):
        left, top = number % COLUMNS * (edge + GAP), number // COLUMNS * step
        page.paste(ImageOps.pad(image, (edge, edge), Image.Resampling.BICUBIC, color="white"), (left, top))
        draw.text((left + edge / 2, top + edge + 2), caption, font=font, fill="black", anchor="mt")
    page.save(path, quality=88)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("error: give two folders: python docs/make_images.py data/shapes predictions")
    data_folder, predictions_folder = map(Path, sys.argv[1:])
    write_sheet(classes(data_folder), 150, HERE / "classes.jpg")
    write_sheet(views(data_folder), 150, HERE / "views.jpg")
    write_sheet(predictions(predictions_folder), 200, HERE / "predictions.jpg")
