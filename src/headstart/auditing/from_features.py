"""What features say about images: near duplicates and outliers."""

from collections.abc import Iterator

import numpy as np

from headstart.auditing.findings import Finding
from headstart.auditing.kinds import MISSING_GROUPS
from headstart.auditing.near_duplicates import Pooled, near_duplicates
from headstart.data.manifest import Manifest, Split
from headstart.evaluation.probes import Array, unit_rows

# An outlier is less similar to the rest of its class than a quarter of them are, by this many interquartile ranges.
FAR = 2.5
SMALLEST = 10  # classes in which outliers are looked for
# If more than this fraction of the images outside train look almost like one in another split, they may be series.
SERIES = 0.05


def find_from_features(splits: dict[str, Split], features: dict[str, Array]) -> list[Finding]:
    """`features` (N, embedding_dim) are unaugmented, in the order of each split's samples."""
    matrix = np.concatenate([np.asarray(features[name], np.float32) for name in splits])
    matrix -= matrix.mean(0)
    contents = [content for split in splits.values() for content in split.contents]
    images = Pooled(
        unit_rows(matrix),
        tuple(path for split in splits.values() for path in split.paths),
        np.array([label for split in splits.values() for label in split.labels]),
        np.unique(contents, return_inverse=True)[1],
        np.array([name for name, split in splits.items() for _ in split.paths]),
    )
    return [*near_duplicates(images), *_outliers(images)]


def missing_groups(manifest: Manifest, findings: list[Finding]) -> list[Finding]:
    """Whether the near duplicates among `findings` suggest that images belong to groups, of which there are none."""
    splits = {path: name for name, split in manifest.splits.items() for path in split.paths}
    pairs = [finding.paths for finding in findings if finding.kind == "near duplicates across splits"]
    alike = {path for pair in pairs for path in pair if splits[path] != "train"}
    held_out = sum(name != "train" for name in splits.values())
    if manifest.groups or len(alike) <= SERIES * held_out:
        return []
    says = f"{len(alike)} of the {held_out} images outside train look almost like one in another split"
    return [Finding(MISSING_GROUPS, (), says)]


def _outliers(images: Pooled) -> Iterator[Finding]:
    """Images that are unlike the rest of their class."""
    for label in np.unique(images.labels):
        own = np.flatnonzero(images.labels == label)
        if len(own) < SMALLEST:
            continue
        units = images.units[own]
        similarities = (units * unit_rows(units.sum(0) - units)).sum(1)
        low, high = np.quantile(similarities, (0.25, 0.75))
        for place in np.flatnonzero(similarities < low - FAR * (high - low)).tolist():
            says = f"similarity {similarities[place]:.2f} to the rest of its class"
            yield Finding("outlier", (images.paths[own[place]],), says)
