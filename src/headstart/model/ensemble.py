"""Several classifiers whose mean predicts."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from headstart.backbones.backbone import Backbone
from headstart.config.features import EncoderSettings
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError
from headstart.files import read_json
from headstart.model.checkpoint import load_classifier
from headstart.model.image_classifier import ImageClassifier


class Ensemble(nn.Module):
    """Classifiers of the same classes, the best first. One alone is an ensemble too.

    Those that share a frozen backbone encode an image once.
    """

    def __init__(self, members: Sequence[ImageClassifier]) -> None:
        super().__init__()
        self._members = nn.ModuleList(members)

    def __iter__(self) -> Iterator[ImageClassifier]:
        return iter(cast(Iterable[ImageClassifier], self._members))

    def __len__(self) -> int:
        return len(self._members)

    @property
    def best(self) -> ImageClassifier:
        """The first member."""
        return next(iter(self))

    @property
    def preprocessings(self) -> tuple[Preprocessing, ...]:
        """Every preprocessing that a member needs, that of the best one first."""
        return tuple(dict.fromkeys(member.recipe.preprocessing for member in self))

    def prepare(self, images: int) -> None:
        """Announces how many images will be encoded; what is compiled already is used."""
        for member in self:
            member.encoder.prepare(images, or_kept=True)

    def warm_up(self) -> None:
        """Gets the compiled code that `prepare` has decided on, which `embed` would otherwise do."""
        for member in self:
            member.encoder.warm_up(member.recipe.preprocessing.image_size)

    def embed(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (uint8, N×3×H×W) in each of the `preprocessings` → features (N, embedding_dim) for each member."""
        seen = dict(zip(self.preprocessings, images, strict=True))
        found: dict[tuple[Backbone, str], Tensor] = {}
        for member in self:
            if (key := _encodes_as(member)) not in found:
                found[key] = member.embed(seen[member.recipe.preprocessing])
        return [found[_encodes_as(member)] for member in self]

    def predict_proba(self, features: Sequence[Tensor]) -> Tensor:
        """Features for each member → the mean of their calibrated probabilities (N, classes)."""
        return torch.stack([member.predict_proba(of) for member, of in zip(self, features, strict=True)]).mean(0)


def load_ensemble(checkpoints: Iterable[Path], features: EncoderSettings, moved_to: str | None) -> Ensemble:
    """The classifiers in `checkpoints`; a frozen backbone that several were trained on is loaded once.

    Raises:
        HeadstartError: as `load_classifier`.
    """
    members: list[ImageClassifier] = []
    for path in checkpoints:
        frozen = [member.backbone for member in members if member.recipe.finetune.first_epoch is None]
        members.append(load_classifier(path, features, moved_to, frozen))
    return Ensemble(members)


def members_in(record: Path) -> list[Path]:
    """The checkpoints of the ensemble with the record `record`.

    Raises:
        HeadstartError: it is missing or damaged.
    """
    try:
        return [record.parent / member["checkpoint"] for member in read_json(record)["members"]]
    except (OSError, ValueError, TypeError, KeyError):
        raise HeadstartError(f"{record} does not exist, or is not the record of an ensemble") from None


def _encodes_as(member: ImageClassifier) -> tuple[Backbone, str]:
    """What is the same for members with the same features."""
    return member.backbone, member.encoder.precision
