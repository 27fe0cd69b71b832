"""Small images inside the report's page."""

import base64
import io
from pathlib import Path

from PIL import Image
from torchvision.transforms.v2 import functional

from headstart.data.images import read_rgb
from headstart.data.manifest import Split
from headstart.data.transforms import Transform
from headstart.errors import HeadstartError, UnreadableImage

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
