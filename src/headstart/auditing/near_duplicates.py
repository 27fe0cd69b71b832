"""Images that look almost like another one: cropped, scaled, compressed again, the next of a burst."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from headstart.auditing.findings import Finding
from headstart.evaluation.probes import Array

# Cosine similarity of centered features from which a pair is listed.
SIMILAR = 0.9
# A pair that is less similar is listed if it is at least this similar, and by at least this much more similar than
# either is to any third image. Of photographs and ImageNet features, all copies cropped by a twentieth at each edge and
# compressed again are found, and no pair of different photographs.
ALIKE, GAP = 0.8, 0.15
ROWS = 1024  # compared at a time


@dataclass(frozen=True)
class Pooled:
    """The N images of all splits in turn. `units` (N, embedding_dim) are centred features of unit length."""

    units: Array
    paths: tuple[str, ...]
    labels: Array
    contents: tuple[str, ...]
    splits: Array


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
    count, found = len(images.units), {}
    nearest, best, second = np.zeros(count, int), np.zeros(count), np.zeros(count)
    for start in range(0, count, ROWS):
        block = _similarities(images, start)
        rows = np.arange(len(block))
        for split in np.unique(images.splits):
            columns = np.flatnonzero(images.splits == split)
            closest = columns[block[:, columns].argmax(1)]
            for row in np.flatnonzero(block[rows, closest] >= SIMILAR).tolist():
                pair = sorted((start + row, int(closest[row])))
                found[pair[0], pair[1]] = float(block[row, closest[row]])
        here = slice(start, start + len(block))
        nearest[here] = block.argmax(1)
        best[here] = block[rows, nearest[here]]
        block[rows, nearest[here]] = -1
        second[here] = block.max(1)
    gap = best - np.maximum(second, second[nearest])
    is_mutual = nearest[nearest] == np.arange(count)
    for index in np.flatnonzero(is_mutual & (best >= ALIKE) & (gap >= GAP)).tolist():
        pair = sorted((index, int(nearest[index])))
        found[pair[0], pair[1]] = float(best[index])
    return found


def _similarities(images: Pooled, start: int) -> Array:
    """Of up to ROWS images to all (rows, N); -1 to themselves and to their exact duplicates."""
    block: Array = images.units[start : start + ROWS] @ images.units.T
    copies: dict[str, list[int]] = {}
    for index, content in enumerate(images.contents):
        copies.setdefault(content, []).append(index)
    for row in range(len(block)):
        block[row, copies[images.contents[start + row]]] = -1
    return block
