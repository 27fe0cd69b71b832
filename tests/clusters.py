"""Features that overlap from class to class."""

import numpy as np

from headstart.evaluation.probes import Labelled


def clusters(count: int, width: int, classes: int = 4, spread: float = 1.0, seed: int = 0) -> Labelled:
    """Overlapping clusters, one per class."""
    generator = np.random.default_rng(7)
    centres = generator.normal(size=(classes, width))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    noise = generator.normal(scale=spread, size=(count, width))
    return Labelled((centres[labels] + noise + 3).astype(np.float32), labels, classes)
