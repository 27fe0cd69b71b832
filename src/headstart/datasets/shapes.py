"""Generated images: shapes with textures, drawn from outlines."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from headstart.config.data import ShapesSettings
from headstart.data.splits import derive_seed, split_class
from headstart.datasets import create_once
from headstart.errors import HeadstartError
from headstart.log import progress_bar
from headstart.processes import thread_map

# What generated images show: shapes as outlines, textures as fields over the plane.

Array = NDArray[np.floating[Any]]

TURN = 2 * np.pi
POINTS = 96  # of a curved outline
_ANGLES: Array = np.arange(POINTS) * TURN / POINTS


def _polar(radius: Array) -> Array:
    """The closed curve with `radius` at each of the angles; the first one points up."""
    return np.stack([radius * np.sin(_ANGLES), -radius * np.cos(_ANGLES)], axis=1)


def _spikes(*radii: float, points: int) -> Array:
    """A polygon whose corners lie at `radii` in turn, `points` times round."""
    angles = np.arange(points * len(radii)) * TURN / (points * len(radii))
    lengths = np.tile(radii, points)
    return np.stack([lengths * np.sin(angles), -lengths * np.cos(angles)], axis=1)


def _arc(radius: float, start: float, stop: float, centre: tuple[float, float] = (0.0, 0.0)) -> Array:
    """Points of a circle from `start` to `stop`, in turns, clockwise from above."""
    angles = np.linspace(start, stop, POINTS // 2) * TURN
    return np.stack([centre[0] + radius * np.sin(angles), centre[1] - radius * np.cos(angles)], axis=1)


def _corners(*xy: float) -> Array:
    return np.array(xy, dtype=np.float64).reshape(-1, 2)


def _box(left: float, top: float, right: float, bottom: float) -> Array:
    return _corners(left, top, right, top, right, bottom, left, bottom)


def _heart() -> Array:
    x = np.sin(_ANGLES) ** 3
    y = sum(weight * np.cos(k * _ANGLES) for k, weight in enumerate((13, -5, -2, -1), start=1))
    return np.stack([x, -np.asarray(y) / 16 - 0.1], axis=1)


# The first outline is filled, the others are cut out of it. All lie roughly in the unit circle, with y down.
SHAPES: dict[str, tuple[Array, ...]] = {
    "star": (_spikes(1.1, 0.46, points=5),),
    "ring": (_polar(np.full(POINTS, 0.95)), _polar(np.full(POINTS, 0.45))),
    "heart": (_heart(),),
    "moon": (np.concatenate([_arc(1.0, 0.13, 0.87), _arc(0.73, 0.77, 0.23, (0.0, -0.63))]),),
    "arrow": (_corners(0, -1.1, 0.8, -0.15, 0.33, -0.15, 0.33, 1, -0.33, 1, -0.33, -0.15, -0.8, -0.15),),
    "disc": (_polar(np.full(POINTS, 0.9)),),
    "triangle": (_spikes(1.1, points=3),),
    "square": (_box(-0.8, -0.8, 0.8, 0.8),),
    "bar": (_box(-0.36, -1.1, 0.36, 1.1),),
    "hexagon": (_spikes(1.0, points=6),),
    "kite": (_corners(0, -1.1, 0.6, -0.35, 0, 1.1, -0.6, -0.35),),
    "trapezoid": (_corners(-0.4, -0.75, 0.4, -0.75, 1, 0.75, -1, 0.75),),
    "dome": (_arc(1.0, -0.25, 0.25, (0.0, 0.4)),),
    "wedge": (np.concatenate([_arc(1.0, 0.14, 0.86), [[0.0, 0.0]]]),),
    "drop": (np.concatenate([_arc(0.66, 0.19, 0.81, (0.0, 0.35)), [[0.0, -1.15]]]),),
    "lens": (np.concatenate([_arc(1.25, 0.09, 0.41, (-0.75, 0.0)), _arc(1.25, 0.59, 0.91, (0.75, 0.0))]),),
    "hourglass": (_corners(-0.8, -1, 0.8, -1, 0.14, 0, 0.8, 1, -0.8, 1, -0.14, 0),),
    "chevron": (_corners(-1, 0.15, 0, -0.85, 1, 0.15, 1, 0.85, 0, -0.15, -1, 0.85),),
    "ell": (_corners(-0.7, -1, -0.1, -1, -0.1, 0.4, 0.75, 0.4, 0.75, 1, -0.7, 1),),
    "tee": (_corners(-0.9, -0.9, 0.9, -0.9, 0.9, -0.3, 0.3, -0.3, 0.3, 1, -0.3, 1, -0.3, -0.3, -0.9, -0.3),),
    "cross": (_spikes(1.05, 0.44, 1.05, points=4),),
    "bolt": (_corners(0.3, -1.1, -0.6, 0.15, -0.05, 0.15, -0.3, 1.1, 0.6, -0.25, 0.05, -0.25),),
    "frame": (_box(-0.85, -0.85, 0.85, 0.85), _box(-0.42, -0.42, 0.42, 0.42)),
    "spark": (_spikes(1.15, 0.4, points=4),),
    "gear": (_spikes(1.0, 1.0, 0.68, 0.68, points=8),),
    "flower": (_polar(0.72 + 0.3 * np.cos(5 * _ANGLES)),),
    "clover": (_polar(0.66 + 0.36 * np.cos(3 * _ANGLES)),),
    "house": (_corners(0, -1.05, 0.9, -0.2, 0.65, -0.2, 0.65, 0.9, -0.65, 0.9, -0.65, -0.2, -0.9, -0.2),),
    "stairs": (_corners(-0.9, 0.9, -0.9, -0.9, -0.3, -0.9, -0.3, -0.3, 0.3, -0.3, 0.3, 0.3, 0.9, 0.3, 0.9, 0.9),),
}


def _zigzag(x: Array) -> Array:
    """A triangle wave between -1 and 1."""
    return np.asarray(2 / np.pi * np.arcsin(np.sin(x)))


def _bricks(u: Array, v: Array) -> Array:
    row = np.floor(v / TURN)
    joints = np.cos(0.5 * u + np.pi * (row % 2)) - 0.82
    return np.maximum(joints * 2, np.cos(v) - 0.7)


# (u, v) → a field with a period of about 2π; where it is positive the second colour shows.
TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "plain": lambda u, v: np.full_like(u, -1.0),
    "striped": lambda u, v: np.sin(u),
    "dotted": lambda u, v: np.cos(u) + np.cos(v) - 0.45,
    "checked": lambda u, v: 2 * np.sin(0.75 * u) * np.sin(0.75 * v),
    "netted": lambda u, v: np.maximum(np.cos(u), np.cos(v)) - 0.7,
    "ringed": lambda u, v: np.sin(np.hypot(u, v)),
    "wavy": lambda u, v: np.sin(u + 2 * np.sin(0.7 * v)),
    "zigzag": lambda u, v: np.sin(u + 2.4 * _zigzag(v)),
    "bricked": _bricks,
    "mottled": lambda u, v: np.sin(u + 1.7 * np.sin(0.6 * v)) + np.sin(v + 1.9 * np.sin(0.53 * u + 1)) - 0.2,
    "honeycombed": lambda u, v: -0.4 - np.cos(u) - np.cos(0.5 * u + 0.87 * v) - np.cos(0.5 * u - 0.87 * v),
}


# Generated images: a small synthetic problem whose classes differ by shape and texture, never by colour.

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
    drawn_with = {key: getattr(settings, key) for key in ("classes", "per_class", "drawing_seed")}
    options = {"version": VERSION} | drawn_with
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
    """Draws an RGB image of a textured shape among clutter: a pure function of the three arguments."""
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
