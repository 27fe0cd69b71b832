"""Images that look almost like another one: cropped, scaled, compressed again, the next of a burst."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import reduce
from itertools import pairwise
from operator import or_

import numpy as np

from headstart.auditing.findings import Finding
from headstart.evaluation.probes import Array

# Cosine similarity of centered features from which a pair is listed.
SIMILAR = 0.9
# A pair that is less similar is listed if it is at least this similar, and by at least this much more similar than
# either is to any third image. Of photographs and ImageNet features, all copies cropped by a twentieth at each edge and
# compressed again are found, and no pair of different photographs.
ALIKE, GAP = 0.8, 0.15
# More are only compared on request: the time grows with the square of their number.
MOST_IMAGES = 200_000
# Compared at a time, which bounds the memory.
ROWS, COLUMNS = 1024, 16384


@dataclass(frozen=True)
class Pooled:
    """The N images of all splits in turn. `units` (N, embedding_dim) are centred features of unit length.

    `contents` (N) are equal for exact duplicates.
    """

    units: Array
    paths: tuple[str, ...]
    labels: Array
    contents: Array
    splits: Array


@dataclass(frozen=True)
class Nearest:
    """For each of several images: the index of the most similar other one, its similarity, and that of the second."""

    index: Array
    best: Array
    second: Array

    def merged(self, other: "Nearest") -> "Nearest":
        """For the same images, among all that either has compared them with."""
        is_other = other.best > self.best
        second = np.maximum(np.minimum(self.best, other.best), np.maximum(self.second, other.second))
        return Nearest(np.where(is_other, other.index, self.index), np.maximum(self.best, other.best), second)

    def pairs(self, chosen: Array) -> dict[tuple[int, int], float]:
        """The similarity of the pairs of all `chosen` (N) images, the lower index first."""
        first = np.flatnonzero(chosen)
        pairs = np.sort(np.stack([first, self.index[first]], axis=1), axis=1)
        return dict(zip(map(tuple, pairs.tolist()), self.best[first].tolist(), strict=True))


def near_duplicates(images: Pooled) -> list[Finding]:
    """Pairs of similar images, the most similar first; exact duplicates are left out."""
    found = [
        Finding(kind, (images.paths[first], images.paths[second]), f"similarity {similarity:.3f}")
        for (first, second), similarity in sorted(_pairs(images).items(), key=lambda item: -item[1])
        for kind in _kinds(images, first, second)
    ]
    return sorted(found, key=lambda finding: finding.kind)


def _kinds(images: Pooled, first: int, second: int) -> Iterator[str]:
    if images.labels[first] != images.labels[second]:
        yield "near duplicates with conflicting labels"
    if images.splits[first] != images.splits[second]:
        yield "near duplicates across splits"
    elif images.labels[first] == images.labels[second]:
        yield "near duplicates within a split"


def _pairs(images: Pooled) -> dict[tuple[int, int], float]:
    """The similarity of each pair of indices, the lower one first."""
    in_splits = [_nearest(images, split) for split in _ranges(images.splits)]
    nearest = reduce(Nearest.merged, in_splits)
    gap = nearest.best - np.maximum(nearest.second, nearest.second[nearest.index])
    is_mutual = nearest.index[nearest.index] == np.arange(len(gap))
    alike = nearest.pairs(is_mutual & (nearest.best >= ALIKE) & (gap >= GAP))
    return reduce(or_, (split.pairs(split.best >= SIMILAR) for split in in_splits), alike)


def _ranges(splits: Array) -> list[slice]:
    """The images of each split."""
    bounds = [0, *(np.flatnonzero(splits[1:] != splits[:-1]) + 1).tolist(), len(splits)]
    return [slice(*pair) for pair in pairwise(bounds)]


def _nearest(images: Pooled, split: slice) -> Nearest:
    """To all images, among those of `split`; neither themselves nor their exact duplicates."""
    blocks = [
        reduce(Nearest.merged, (_in_tile(images, rows, columns) for columns in _tiles(split, COLUMNS)))
        for rows in _tiles(slice(0, len(images.units)), ROWS)
    ]
    return Nearest(*(np.concatenate(parts) for parts in zip(*map(astuple, blocks), strict=True)))


def _tiles(whole: slice, size: int) -> list[slice]:
    return [slice(start, min(start + size, whole.stop)) for start in range(whole.start, whole.stop, size)]


def _in_tile(images: Pooled, rows: slice, columns: slice) -> Nearest:
    block: Array = images.units[rows] @ images.units[columns].T
    block[images.contents[rows, None] == images.contents[columns]] = -1
    places = np.arange(len(block))
    closest = block.argmax(1)
    best = block[places, closest]
    block[places, closest] = -1
    return Nearest(columns.start + closest, best, block.max(1))
