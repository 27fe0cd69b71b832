"""ensemble.json: the members of an ensemble, and how good it is."""

from dataclasses import dataclass

from headstart.files import read_json
from headstart.run_folder import EnsembleFolder


@dataclass(frozen=True)
class Member:
    """A copy of a trial's checkpoint: its place in the ensemble's folder, the trial, and its SHA-256."""

    checkpoint: str
    trial: str
    sha256: str


@dataclass(frozen=True)
class EnsembleScore:
    """Metrics of an ensemble on the valid and the test split, its `members` best first.

    `p_value` is that the ensemble and the best trial, whose accuracy is `best_accuracy`, are equally often right about
    the `images` valid images (exact McNemar test).
    """

    members: tuple[Member, ...]
    metrics: dict[str, float]
    images: int
    best_accuracy: float
    p_value: float


def read_score(folder: EnsembleFolder) -> EnsembleScore | None:
    """That of the ensemble in its folder; None: there is none, or it is incomplete."""
    try:
        values = read_json(folder.record)
        score = EnsembleScore(**values | {"members": tuple(Member(**member) for member in values["members"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return score if all((folder.path / member.checkpoint).is_file() for member in score.members) else None
