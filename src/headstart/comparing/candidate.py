"""A backbone and how good its features are."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from headstart.evaluation.probes import Array
from headstart.evaluation.statistics import SIGNIFICANT, mcnemar, wilson_interval


@dataclass(frozen=True)
class Candidate:
    """A backbone, or the `reason` why it could not be loaded.

    `correct` (N) says, of each simple classifier by its name, which images it classifies correctly; `p_value` is that
    the candidate is as good as the first one. `megabytes` are of its weights, in 10⁶ bytes.
    """

    arch: str
    weights: str | None
    correct: dict[str, Array] = field(default_factory=dict)
    images_per_second: float = 0.0
    megabytes: float = 0.0
    embedding_dim: int = 0
    reason: str | None = None
    p_value: float = 1.0

    @property
    def shown_weights(self) -> str:
        """Their name, or that of their file without its folder."""
        return "random" if self.weights is None else Path(self.weights).name

    @property
    def head(self) -> str:
        """The classifier with the highest accuracy."""
        return max(self.correct, key=self.accuracy_of)

    @property
    def accuracy(self) -> float:
        """That of `head`."""
        return self.accuracy_of(self.head)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of `accuracy`."""
        return self.interval_of(self.head)

    def accuracy_of(self, head: str) -> float:
        """The share of the images that the classifier `head` classifies correctly."""
        return float(self.correct[head].mean())

    def interval_of(self, head: str) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy of the classifier `head`."""
        found = self.correct[head]
        return wilson_interval(int(found.sum()), len(found))


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """By accuracy, those that could not be loaded last; with p-values against the first."""
    failed = [candidate for candidate in candidates if candidate.reason is not None]
    loaded = [candidate for candidate in candidates if candidate.reason is None]
    loaded.sort(key=lambda candidate: -candidate.accuracy)
    return [replace(c, p_value=mcnemar(loaded[0].correct[loaded[0].head], c.correct[c.head])) for c in loaded] + failed


def equals_of_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of the `ranked` ones that a paired test cannot tell from the first."""
    return [c for c in candidates[1:] if c.reason is None and c.p_value >= SIGNIFICANT]
