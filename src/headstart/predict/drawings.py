"""Images drawn from predictions, in a folder below output=."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from headstart.files import DISK_FULL, replacing
from headstart.predict.prediction import Prediction
from headstart.predict.sources import common_folder

# Below output=; predictions never read what is in them.
FOLDERS = ("annotated", "explained", "contact_sheets", "report")


class Drawings:
    """Writes what `draw` makes of each prediction into output/`kind`, in the folders that the images are in."""

    def __init__(self, output: Path, kind: str, paths: list[Path], draw: Callable[[Prediction], Image.Image]) -> None:
        self._folder, self._kind, self._draw = output / kind, kind, draw
        self._common = common_folder(paths)
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, prediction: Prediction) -> Prediction:
        """Draws one prediction, unless it has an error, and returns it with the reason if that was not possible.

        Raises:
            OSError: the disk is full.
        """
        if prediction.error is not None:
            return prediction
        try:
            save(self._draw(prediction), drawing_path(self._folder, prediction.path, self._common))
        # Whatever is wrong with one image, the others are drawn all the same.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reason = f"{prediction.path} cannot be {self._kind}: {error or type(error).__name__}"
            return replace(prediction, error=reason)
        return prediction


def drawing_path(folder: Path, path: Path, common: Path) -> Path:
    """Where the drawing of `path` goes: its place below `common`, as a JPEG."""
    relative = path.relative_to(common)
    if relative.suffix.lower() not in (".jpg", ".jpeg"):
        relative = relative.with_name(f"{relative.name}.jpg")
    return folder / relative


def save(image: Image.Image, path: Path) -> None:
    """Writes a JPEG, completely or not at all."""
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=92)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
