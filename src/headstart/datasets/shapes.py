"""Generated images: a small synthetic problem whose classes differ by shape and texture, never by colour."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from headstart.config.data import ShapesSettings
from headstart.data.splits import split_class
from headstart.data.workers import thread_map
from headstart.datasets.generate import create_once
from headstart.datasets.outlines import SHAPES, TEXTURES, TURN, Array
from headstart.errors import HeadstartError
from headstart.progress import progress_bar
from headstart.seeds import derive_seed

TEN_SHAPES = ("star", "ring", "heart", "moon", "arrow")
TEN_TEXTURES = ("striped", "dotted")
TEN_CLASSES = tuple(f"{texture}_{shape}" for shape in TEN_SHAPES for texture in TEN_TEXTURES)

# To pre-train on: none of the ten's shapes; each other shape in both of their textures and in a third one.
_OTHER_SHAPES = [shape for shape in SHAPES if shape not in TEN_SHAPES]
_OTHER_TEXTURES = [texture for texture in TEXTURES if texture not in TEN_TEXTURES]
PRETRAINING_CLASSES = tuple(
    f"{texture}_{shape}"
    for index, shape in enumerate(_OTHER_SHAPES)
    for texture in (*TEN_TEXTURES, _OTHER_TEXTURES[2 * index % len(_OTHER_TEXTURES)])
)
CLASSES = {"ten": TEN_CLASSES, "pretraining": PRETRAINING_CLASSES}  # what `data.classes` can be

VERSION = 1  # increased when the same seed draws other images
SIDES = (120, 176)  # pixels, smallest and largest
OVERSAMPLING = 3  # of the outlines
QUALITY = 85  # of the JPEG files

Size = tuple[int, int]  # width, height


def make_shapes(settings: ShapesSettings, seed: int) -> None:
    """Creates root/{train,valid,test}/<texture>_<shape>/*.jpg unless it exists.

    `seed` is of splits by fractions; the images depend on `data.drawing_seed`.

    Raises:
        HeadstartError: the folder holds something else, or `data.per_class` is less than the splits take.
    """
    split = settings.split
    if isinstance(split.train, int) and settings.per_class < split.train + split.valid:
        raise HeadstartError(
            f"data.per_class={settings.per_class} is too small for data.split.train={split.train} and "
            f"data.split.valid={split.valid}"
        )
    options = {
        "version": VERSION,
        "classes": settings.classes,
        "per_class": settings.per_class,
        "drawing_seed": settings.drawing_seed,
    }
    create_once(settings, seed, "generated shapes", options, lambda folder: _write(folder, settings, seed))


def _write(folder: Path, settings: ShapesSettings, seed: int) -> dict[str, Any]:
    places = list(_places(settings, seed))
    with progress_bar("drawing images", len(places)) as advance:

        def draw(place: tuple[str, str, str]) -> None:
            split, class_name, name = place
            texture, shape = class_name.split("_")
            image = draw_image(shape, texture, derive_seed("shapes", settings.drawing_seed, name))
            path = folder / split / class_name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, quality=QUALITY)
            advance(1)

        thread_map(draw, places)
    return {}


def _places(settings: ShapesSettings, seed: int) -> Iterator[tuple[str, str, str]]:
    """Split, class and file name of each image."""
    names = [f"{number:04}.jpg" for number in range(settings.per_class)]
    train, valid = settings.split.train, settings.split.valid
    for class_name in CLASSES[settings.classes]:
        parts = split_class(names, train, valid, seed=seed, class_name=class_name)
        yield from ((split, class_name, name) for split, part in parts.items() for name in part)


def draw_image(shape: str, texture: str, seed: int) -> Image.Image:
    """An RGB image of a textured shape among clutter: a pure function of the three arguments."""
    rng = np.random.default_rng([seed, *shape.encode(), 0, *texture.encode()])
    width, height = rng.integers(*SIDES, size=2, endpoint=True)
    size = (int(width), int(height))
    background = rng.random(3)
    colours = _far_colours(rng, background)
    canvas = _scenery(rng, background, size)
    pose = _pose(rng, size)
    mask = _mask(shape, pose, size)
    canvas = _shaded(rng, canvas, mask)
    canvas += _share(mask) * (_figure(rng, texture, pose, colours, size) - canvas)
    return _photographed(rng, _occluded(rng, canvas, pose))


def _far_colours(rng: Generator, background: Array) -> Array:
    """Two colours that differ from the background and from each other."""
    chosen = [background]
    for _ in range(2):
        candidates = rng.random((5, 3))
        nearest = np.min([np.abs(candidates - colour).sum(axis=1) for colour in chosen], axis=0)
        chosen.append(candidates[np.argmax(nearest)])
    return np.stack(chosen[1:]).astype(np.float32)


def _scenery(rng: Generator, background: Array, size: Size) -> Array:
    """A background of roughly one colour with clouds, grain and clutter, (height, width, 3) in 0 … 1."""
    clouds, grain = rng.uniform(0.05, 0.22), rng.uniform(0.0, 0.16)
    field = background.astype(np.float32) + clouds * _noise(rng, int(rng.integers(2, 5)), size)
    image = _image(field + grain * _noise(rng, int(rng.integers(12, 40)), size)[..., :1])
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 9)):
        _scribble(rng, draw, size)
    return np.asarray(image, dtype=np.float32) / 255


def _noise(rng: Generator, cells: int, size: Size) -> Array:
    """Smooth noise in about -1 … 1, (height, width, 3), with `cells` hills per side."""
    grid = rng.integers(0, 256, size=(cells, cells, 3), dtype=np.uint8)
    field = np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return (field - 127.5) / 127.5


def _scribble(rng: Generator, draw: ImageDraw.ImageDraw, size: Size) -> None:
    """A blob, a shard or a crooked line, of any colour, anywhere."""
    colour, x, y, reach = _colour(rng), rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(4, 26)
    offsets = rng.uniform(-reach, reach, size=(4, 2)).tolist()
    match rng.integers(3):
        case 0:
            half = rng.uniform(0.3, 0.7) * reach
            draw.ellipse((x - half, y - 0.6 * half, x + half, y + 0.6 * half), fill=colour)
        case 1:
            draw.polygon([(x + dx, y + dy) for dx, dy in offsets[:3]], fill=colour)
        case _:
            line = [(x + 3 * dx, y + 3 * dy) for dx, dy in offsets]
            draw.line(line, fill=colour, width=int(rng.integers(1, 5)))


def _colour(rng: Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, size=3).tolist()
    return red, green, blue


def _pose(rng: Generator, size: Size) -> Array:
    """The homography from the shape's plane to pixels: size, rotation, shear, position and a little perspective."""
    radius = rng.uniform(0.26, 0.42) * min(size)
    angle = rng.uniform(-0.14, 0.14) * TURN
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[rng.uniform(0.8, 1.2), rng.uniform(-0.25, 0.25)], [0.0, 1.0]])
    # Near the center, so that the center crop holds most of the shape.
    drift = 0.47 * min(size) - radius
    pose = np.eye(3)
    pose[:2, :2] = radius * turn @ shear
    pose[:2, 2] = np.array(size) / 2 + rng.uniform(-drift, drift, size=2)
    pose[2, :2] = rng.uniform(-0.12, 0.12, size=2)
    return pose


def _mask(shape: str, pose: Array, size: Size) -> Image.Image:
    """How much of each pixel the shape covers, 0 … 255."""
    mask = Image.new("L", (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING))
    draw = ImageDraw.Draw(mask)
    fill = 255
    for outline in SHAPES[shape]:
        x, y, w = pose @ np.column_stack([outline, np.ones(len(outline))]).T
        corners = np.column_stack([x / w, y / w]) * OVERSAMPLING
        draw.polygon(corners.ravel().tolist(), fill=fill)
        fill = 0
    return mask.reduce(OVERSAMPLING)


def _share(mask: Image.Image) -> Array:
    """`mask` as (height, width, 1) in 0 … 1."""
    return np.asarray(mask, dtype=np.float32)[..., None] / 255


def _shaded(rng: Generator, canvas: Array, mask: Image.Image) -> Array:
    """The canvas with the figure's shadow on it."""
    shadow = _share(mask.filter(ImageFilter.BoxBlur(rng.uniform(2, 6))))
    offset = rng.integers(-6, 7, size=2).tolist()
    return canvas * (1 - np.float32(rng.uniform(0, 0.6)) * np.roll(shadow, offset, axis=(0, 1)))


def _figure(rng: Generator, texture: str, pose: Array, colours: Array, size: Size) -> Array:
    """The textured plane of the shape under uneven light, (height, width, 3)."""
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in size))
    u, v, w = (row[0] * x + row[1] * y + row[2] for row in np.linalg.inv(pose).astype(np.float32))
    angle, scale = rng.uniform(-0.5, 0.5) * TURN, TURN / rng.uniform(0.3, 0.5)
    shift = rng.uniform(0, TURN, size=2).astype(np.float32)
    cos, sin = (np.float32(scale * part) / w for part in (np.cos(angle), np.sin(angle)))
    field = TEXTURES[texture](cos * u - sin * v + shift[0], sin * u + cos * v + shift[1])
    second = np.clip(0.5 + rng.uniform(1.5, 4.0) * field, 0, 1)[..., None].astype(np.float32)
    return (colours[0] + second * (colours[1] - colours[0])) * _light(rng, 1.0, rng.uniform(0.1, 0.35), size)


def _light(rng: Generator, level: float, unevenness: float, size: Size) -> Array:
    return np.float32(level) + np.float32(unevenness) * _noise(rng, 2, size)[..., :1]


def _occluded(rng: Generator, canvas: Array, pose: Array) -> Image.Image:
    """The canvas with a few scribbles and perhaps a patch over the figure's rim."""
    image = _image(canvas)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 3)):
        _scribble(rng, draw, image.size)
    if rng.random() < 0.5:
        x, y, w = pose @ [*(rng.choice((-0.8, 0.8), size=2) * rng.uniform(0.6, 1.2, size=2)), 1.0]
        half = rng.uniform(0.15, 0.3) * np.sqrt(np.abs(np.linalg.det(pose[:2, :2])))
        draw.ellipse((x / w - half, y / w - half, x / w + half, y / w + half), fill=_colour(rng))
    return image


def _photographed(rng: Generator, image: Image.Image) -> Image.Image:
    """The image as a camera might see it: blurred, paler, in uneven light, noisy."""
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.3)))
    pale = np.asarray(ImageEnhance.Color(blurred).enhance(rng.uniform(0.3, 1)), dtype=np.float32) / 255
    light = _light(rng, rng.uniform(0.75, 1.15), rng.uniform(0, 0.3), image.size)
    noise = np.float32(rng.uniform(0.01, 0.06)) * rng.standard_normal(pale.shape, dtype=np.float32)
    return _image(pale * light + noise)


def _image(field: Array) -> Image.Image:
    """(height, width, 3) in 0 … 1 as an image; values outside are clipped."""
    pixels: NDArray[np.uint8] = (np.clip(field, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels)
