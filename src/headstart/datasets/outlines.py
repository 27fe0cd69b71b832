"""What generated images show: shapes as outlines, textures as fields over the plane."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
