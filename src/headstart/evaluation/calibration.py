"""Whether probabilities can be believed: of the images predicted with 80 %, are 80 % right?"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import nll_loss

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """`bins` are (mean probability, share of correct predictions, images) of each occupied bin of equal width.

    `ece` is the expected calibration error: the mean distance of the two, weighted by images (Naeini et al. 2015).
    """

    log_loss: float
    ece: float
    bins: tuple[tuple[float, float, int], ...]


def calibration(log_probs: Tensor, labels: Tensor) -> Calibration:
    """Of log-probabilities (N, classes) and labels (N)."""
    top, predicted = log_probs.double().exp().max(1)
    right = (predicted == labels).numpy()
    confidence = top.clamp(max=1).numpy()
    # Bins are closed on the right, as in the paper.
    places = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int)
    bins = []
    for place in np.unique(places):
        inside = places == place
        bins.append((float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    ece = sum(abs(mean - share) * count for mean, share, count in bins) / len(labels)
    return Calibration(float(nll_loss(log_probs.double(), labels)), float(ece), tuple(bins))
