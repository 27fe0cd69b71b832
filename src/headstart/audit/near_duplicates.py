"""Images that look almost like one of another split: cropped, scaled, compressed again, the next of a burst."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from headstart.audit.findings import Finding
from headstart.data.manifest import Split

Array = np.ndarray[Any, np.dtype[Any]]

# Cosine similarity of centered features from which a pair is listed. With photographs and an ImageNet backbone, half of
# the copies that were compressed hard or cropped by a tenth are above it, and one in a hundred other pairs.
SIMILAR = 0.9
ROWS = 1024  # compared at a time


def near_duplicates(splits: dict[str, Split], features: dict[str, Array]) -> list[Finding]:
    """For each image of valid and test the nearest one of an earlier split, if it is similar; most similar first.

    Exact duplicates are left out. `features` (N, embedding_dim) are unaugmented, in the order of each split's samples.
    """
    mean = np.concatenate([np.asarray(matrix, np.float32) for matrix in features.values()]).mean(0)
    units = {name: _units(matrix, mean) for name, matrix in features.items()}
    pairs = []
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if first in splits and second in splits:
            pairs += list(_pairs(splits[first], splits[second], units[first], units[second]))
    return [
        Finding("near duplicates across splits", (path, other), f"similarity {similarity:.3f}")
        for similarity, path, other in sorted(pairs, reverse=True)
    ]


def _units(matrix: Array, mean: Array) -> Array:
    centred = np.asarray(matrix, np.float32) - mean
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.maximum(lengths, 1e-12)


def _pairs(first: Split, second: Split, known: Array, new: Array) -> Iterator[tuple[float, str, str]]:
    copies = set(first.contents)
    for start in range(0, len(new), ROWS):
        similarities = new[start : start + ROWS] @ known.T
        nearest = similarities.argmax(1)
        for row, column in enumerate(nearest.tolist()):
            similarity = float(similarities[row, column])
            if similarity >= SIMILAR and second.contents[start + row] not in copies:
                yield similarity, first.paths[column], second.paths[start + row]
