"""Images that look almost like another one: cropped, scaled, compressed again, the next of a burst."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from headstart.audit.findings import Finding
from headstart.data.manifest import Split
from headstart.evaluation.probes import Array

# Cosine similarity of centered features from which a pair is listed. With photographs and an ImageNet backbone, half of
# the copies that were compressed hard or cropped by a tenth are above it, and one in a hundred other pairs.
SIMILAR = 0.9
ROWS = 1024  # compared at a time
Pair = tuple[float, str, str]


def near_duplicates(splits: dict[str, Split], units: dict[str, Array]) -> list[Finding]:
    """For each image the nearest one of an earlier split, and of its own, if it is similar; most similar first.

    Exact duplicates are left out. `units` (N, embedding_dim) are centred features of unit length, in the order of each
    split's samples. Of a pair within a split, only one image is listed first.
    """
    across: list[Pair] = []
    for first, second in combinations([name for name in ("train", "valid", "test") if name in splits], 2):
        across += _across(splits[first], splits[second], units[first], units[second])
    within: list[Pair] = []
    conflicting: list[Pair] = []
    for name, split in splits.items():
        labels = dict(zip(split.paths, split.labels, strict=True))
        for pair in _within(split, units[name]):
            (within if labels[pair[1]] == labels[pair[2]] else conflicting).append(pair)
    kinds = {
        "near duplicates across splits": across,
        "near duplicates with conflicting labels": conflicting,
        "near duplicates within a split": within,
    }
    return [
        Finding(kind, (path, other), f"similarity {similarity:.3f}")
        for kind, pairs in kinds.items()
        for similarity, path, other in sorted(pairs, reverse=True)
    ]


def _across(first: Split, second: Split, known: Array, new: Array) -> Iterator[Pair]:
    copies = set(first.contents)
    for start in range(0, len(new), ROWS):
        similarities = new[start : start + ROWS] @ known.T
        nearest = similarities.argmax(1)
        for row, column in enumerate(nearest.tolist()):
            similarity = float(similarities[row, column])
            if similarity >= SIMILAR and second.contents[start + row] not in copies:
                yield similarity, first.paths[column], second.paths[start + row]


def _within(split: Split, units: Array) -> Iterator[Pair]:
    """For each image, the nearest of those after it."""
    for start in range(0, len(units), ROWS):
        block = units[start : start + ROWS] @ units[start:].T
        # Neither itself nor those before it.
        block[np.tril_indices(len(block), k=0, m=block.shape[1])] = -1
        nearest = block.argmax(1)
        for row, column in enumerate(nearest.tolist()):
            similarity, other = float(block[row, column]), start + column
            if similarity >= SIMILAR and split.contents[start + row] != split.contents[other]:
                yield similarity, split.paths[start + row], split.paths[other]
