"""What is predicted of one image."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
UNFAMILIAR, UNSURE = "unlike anything trained on", "unsure"


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, most probable first.

    `path` of an image given in memory is its index. `error` says why there are no classes, or why an image drawn from
    it is missing. `familiarity` is how familiar the image is, None for old checkpoints; `doubt` says why
    the first class should not be believed. `saliency` (h, w) is from 0 to 1, of `seen` (uint8, 3×H×W), which is what
    the network saw.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None
    familiarity: float | None = None
    doubt: str | None = None
    seen: "Tensor | None" = None
    saliency: "Tensor | None" = None

    @property
    def label(self) -> str | None:
        """The most probable class."""
        return self.classes[0] if self.classes else None


def predictions_of(
    probabilities: Array,
    familiarity: Array,
    *,
    classes: Sequence[str],
    threshold: float,
    topk: int,
    min_confidence: float,
) -> list[Prediction]:
    """Predictions, without their paths, from probabilities (N, classes) and familiarity scores (N).

    `threshold` is that of the scores, -inf if it is not known.
    """
    # Stable, so that of two equal classes the first is the prediction, as argmax has it.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
    ranked = np.take_along_axis(probabilities, order, axis=1)
    return [
        Prediction(
            Path(),
            tuple(classes[i] for i in indices),
            tuple(values),
            familiarity=score if math.isfinite(threshold) else None,
            doubt=UNFAMILIAR if score < threshold else UNSURE if values[0] < min_confidence else None,
        )
        for indices, values, score in zip(order.tolist(), ranked.tolist(), familiarity.tolist(), strict=True)
    ]


def rows_of(
    inputs: Sequence[object], first: int, errors: Iterable[str | None], found: Iterable[Prediction]
) -> Iterator[Prediction]:
    """One prediction per input, with its path, or with the reason why it could not be read.

    `found` are those of inputs without an error; the path of an image in memory is its number, counted from `first`.
    """
    predictions = iter(found)
    for number, (given, error) in enumerate(zip(inputs, errors, strict=True), start=first):
        path = given if isinstance(given, Path) else Path(str(number))
        yield replace(next(predictions), path=path) if error is None else Prediction(path, error=error)
