"""Choosing the setting of a closed-form head by scores that its training images get from all the others."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from headstart.model.temperature import fit_scale

# Between which the scale of scores lies. Of ridge regression they are differences of about 1, of neighbours of about k.
SCALES = (1e-3, 1e3)


@dataclass(frozen=True)
class Chosen:
    """A setting, its `scores` (N, classes), and the `scale` at which their softmax has the lowest log-loss."""

    setting: float
    scores: Tensor
    scale: float


def choose(scores: Iterable[tuple[float, Tensor]], labels: Tensor) -> Chosen:
    """Of settings and their `scores` (N, classes), those with the highest accuracy, then the lowest log-loss."""
    labels = labels.cpu()
    # Not a list: of many images and classes, scores take much memory.
    candidates = (Chosen(setting, found, fit_scale(found, labels, SCALES)) for setting, found in scores)
    return max(candidates, key=lambda chosen: _quality(chosen, labels))


def _quality(chosen: Chosen, labels: Tensor) -> tuple[float, float]:
    scores = chosen.scores.cpu().double()
    accuracy = (scores.argmax(1) == labels).double().mean()
    return float(accuracy), -float(F.cross_entropy(scores * chosen.scale, labels))
