"""Images drawn from predictions, in a folder below output=."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from headstart.files import replacing
from headstart.machine import DISK_FULL
from headstart.marker import PREDICTIONS, claim
from headstart.predict.prediction import Prediction
from headstart.predict.sources import common_folder

# Names of images whose drawings can have the same.
JPEG = (".jpg", ".jpeg")


class Drawings:
    """Writes what `draw` makes of each prediction into output/`kind`, in the folders that the images are in."""

    def __init__(self, output: Path, kind: str, paths: list[Path], draw: Callable[[Prediction], Image.Image]) -> None:
        self._folder, self._kind, self._draw = output / kind, kind, draw
        self._places = drawing_places(paths)
        claim(self._folder, PREDICTIONS)

    def add(self, prediction: Prediction) -> Prediction:
        """Draws one prediction, unless it has an error, and returns it with the reason if that was not possible.

        Raises:
            OSError: the disk is full.
        """
        if prediction.error is not None:
            return prediction
        try:
            save(self._draw(prediction), self._folder / self._places[prediction.path])
        # Whatever is wrong with one image, the others are drawn all the same.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reason = f"{prediction.path} cannot be {self._kind}: {error or type(error).__name__}"
            return replace(prediction, error=reason)
        return prediction


def drawing_places(paths: list[Path]) -> dict[Path, Path]:
    """Where the drawing of each image goes, as a JPEG: its place below the folder that all of them are in.

    That of 1.png is 1.png.jpg; or, beside an image of that name, 1.png.jpg.jpg.
    """
    # Without "..", which would lead out of the folder of the drawings.
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
    """Writes a JPEG, completely or not at all."""
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=92)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
