"""What is known of a picture file by its content alone. Each content is looked at once, and the facts are kept."""

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import ExifTags, Image

from headstart.data.images import opened, to_rgb
from headstart.data.workers import map_pictures
from headstart.errors import UnreadableImage
from headstart.files import cache_folder, write_text

# Goes up when facts of the same content would turn out otherwise.
VERSION = 1
# The pixels looked at, a grid of so many by so many.
GRID = 32
# Of a channel's 256 levels: noise of the compression makes colours of a grey picture no farther apart.
GREY = 4
# The EXIF orientations that lay a picture on its side.
TRANSPOSED = (5, 6, 7, 8)
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Facts:
    """Of a file's content. Where it is no usable picture, `fault` is its kind and `reason` says why.

    Sizes are in pixels, of the upright picture; `colours` is how many there are among GRID × GRID pixels, `dominant`
    the share of the most frequent one (alike ones counted together).
    """

    sha256: str
    fault: str | None = None
    reason: str | None = None
    format: str = ""
    width: int = 0
    height: int = 0
    frames: int = 1
    orientation: int = 1
    grey: bool = False
    colours: int = 0
    dominant: float = 0.0


def inspect_all(root: Path, paths: list[str]) -> dict[str, Facts]:
    """The facts of each of `paths`, which are relative to `root`. Files are read, and decoded only if they are new."""
    kept = _Kept(root)
    found = dict(zip(paths, map_pictures(lambda path: _facts(root / path, kept.facts), paths), strict=True))
    kept.replace(found.values())
    return found


class _Kept:
    """The facts that earlier inspections of `root` have found, by content, in the user's cache folder."""

    def __init__(self, root: Path) -> None:
        place = hashlib.sha256(str(root.resolve()).encode(errors="surrogateescape")).hexdigest()[:20]
        name = re.sub(r"[^\w.-]+", "_", root.resolve().name)
        self._path = cache_folder() / "audit" / f"{name}-{place}.json"
        self._head = {"version": VERSION, "pillow": PIL.__version__, "pixels": Image.MAX_IMAGE_PIXELS}
        self.facts: dict[str, Facts] = {}
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["head"] == self._head:
                self.facts = {values["sha256"]: Facts(**values) for values in content["facts"]}
        except (OSError, ValueError, KeyError, TypeError):
            # Not there yet, or damaged: everything is looked at anew.
            self.facts = {}

    def replace(self, found: Iterable[Facts]) -> None:
        """Keeps what was found, and forgets contents that are no longer there."""
        facts = {f.sha256: f for f in found if f.sha256}
        if facts == self.facts:
            return
        # Where the folder cannot be written, the next inspection takes longer, and that is all.
        with suppress(OSError):
            write_text(self._path, json.dumps({"head": self._head, "facts": [asdict(f) for f in facts.values()]}))


def _facts(path: Path, known: dict[str, Facts]) -> Facts:
    try:
        content = path.read_bytes()
    except OSError as error:
        return Facts("", "unreadable", error.strerror)
    sha256 = hashlib.sha256(content).hexdigest()
    return known.get(sha256) or _look_at(path, content, sha256)


def _look_at(path: Path, content: bytes, sha256: str) -> Facts:
    try:
        with opened(path, content) as image:
            form, frames, (width, height) = image.format or "", getattr(image, "n_frames", 1), image.size
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            # The whole file is decoded, at the smallest scale its format offers that still has the grid's pixels.
            image.draft("RGB", (GRID, GRID))
            pixels = np.asarray(to_rgb(image.resize((GRID, GRID), Image.Resampling.NEAREST)))
    except UnreadableImage as error:
        # Without the path, which may be another the next time.
        return Facts(sha256, error.fault, str(error).partition(": ")[2])
    if orientation in TRANSPOSED:
        width, height = height, width
    return Facts(sha256, None, None, form, width, height, frames, orientation, **_colours(pixels))


def _colours(pixels: Array) -> dict[str, Any]:
    """`grey`, `colours` and `dominant` of an RGB grid."""
    red, green, blue = np.moveaxis(pixels.reshape(-1, 3).astype(np.int32), 1, 0)
    exact = np.sort((red << 16) | (green << 8) | blue)
    alike = np.bincount((red >> 4 << 8) | (green >> 4 << 4) | (blue >> 4))
    return {
        "grey": bool(max(abs(red - green).max(), abs(green - blue).max()) <= GREY),
        "colours": 1 + int(np.count_nonzero(np.diff(exact))),
        "dominant": round(float(alike.max()) / len(exact), 4),
    }
