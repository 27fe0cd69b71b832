"""What is predicted of one image."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

UNFAMILIAR, UNSURE = "unlike anything trained on", "unsure"


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, most probable first.

    `path` of an image given in memory is its index. `error` says why there are no classes, or why an image drawn from
    it is missing. `familiarity` is the score of headstart.model.familiarity, None for old checkpoints; `doubt` says why
    the first class should not be believed. `saliency` (h, w) is from 0 to 1, of `seen` (uint8, 3×H×W), which is what
    the network saw.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None
    familiarity: float | None = None
    doubt: str | None = None
    seen: Tensor | None = None
    saliency: Tensor | None = None

    @property
    def label(self) -> str | None:
        """The most probable class."""
        return self.classes[0] if self.classes else None
