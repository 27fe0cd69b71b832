"""Pictures that look almost like one of another split: cropped, scaled, compressed again, the next of a burst."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from headstart.data.audit import Finding
from headstart.data.manifest import Split
from headstart.features.store import Array, FeatureStore

# Cosine of features, less their mean, from which a pair is listed. On photographs and an ImageNet backbone half of the
# copies that were compressed hard, or cropped by a tenth, are above; of other pairs one in a hundred.
SIMILAR = 0.9
ROWS = 1024  # compared at a time


def near_duplicates(splits: dict[str, Split], features: dict[str, Array]) -> list[Finding]:
    """For each picture of valid and test the most similar one of an earlier split, if it is similar; the most first.

    Exact copies are left out. `features` (N, embedding_dim) are unaugmented, in the order of each split's samples.
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


def stored_features(
    store: FeatureStore, splits: dict[str, Split], transform: dict[str, Any]
) -> dict[str, Array] | None:
    """Features of all `splits` under one `transform` and one backbone, left by earlier runs; None: there are none.

    Only of backbones whose key says that they know photographs.
    """
    keys = {name: store.find({"data": split.fingerprint, "transform": transform}) for name, split in splits.items()}
    of_backbone: dict[str, dict[str, Array]] = {}
    for name, found in keys.items():
        for key in found:
            if not key.values["backbone"]["knows_photographs"]:
                continue
            rest = json.dumps({part: value for part, value in key.values.items() if part != "data"}, sort_keys=True)
            if (matrix := store.read(key, view=0)) is not None:
                of_backbone.setdefault(rest, {})[name] = matrix
    return next((features for features in of_backbone.values() if len(features) == len(splits)), None)


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
