"""Nearest neighbours by cosine similarity of centred features, and what they say of each image when it is left out."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headstart.model.leave_one_out import choose

NEIGHBOURS = (1, 5, 10, 20)
QUERIES = 256  # compared at a time with all images known


def directions(features: Tensor, mean: Tensor) -> Tensor:
    """Centred features (N, d), of unit length."""
    return F.normalize(features - mean)


def vote(features: Tensor, known: Tensor, labels: Tensor, *, count: int, classes: int) -> Tensor:
    """The votes (M, classes) of the `count` images nearest to each of `features` (M, d), weighted by similarity.

    `features` and `known` (N, d) are directions, `labels` (N) those of `known`.
    """
    return votes(features, known, labels, counts=(count,), classes=classes)[count]


def votes(features: Tensor, known: Tensor, labels: Tensor, *, counts: Iterable[int], classes: int) -> dict[int, Tensor]:
    """Those of `vote` with each count; the images are compared once."""
    counts = tuple(counts)
    nearest = (features @ known.T).topk(min(max(counts), len(known)), dim=1)
    return _by_count(nearest.values, labels[nearest.indices], counts, classes)


def left_out(features: Tensor, labels: Tensor, *, counts: Iterable[int], classes: int) -> dict[float, Tensor]:
    """The votes (N, classes) on each of `features` (N, d) by the others, centred on their mean, with each count."""
    counts, others = sorted(counts), max(1, len(features) - 1)
    centred = features - features.mean(0)
    squares = centred.square().sum(1)
    parts: dict[float, list[Tensor]] = {count: [] for count in counts}
    for rows in torch.arange(len(features), device=features.device).split(QUERIES):
        own, products = squares[rows, None], centred[rows] @ centred.T
        # Without an image, the mean is 1/(N - 1) of the image's own distance further away from it.
        lengths = (squares + 2 * products / others + own / others**2).clamp(min=0).sqrt() * own.sqrt()
        similarities = ((products + own / others) / lengths.clamp(min=1e-12)).clamp(-1, 1)
        similarities[rows - rows[0], rows] = -torch.inf
        nearest = similarities.topk(min(counts[-1], len(features) - 1), dim=1)
        for count, found in _by_count(nearest.values, labels[nearest.indices], counts, classes).items():
            parts[count].append(found)
    return {count: torch.cat(found) for count, found in parts.items()}


def _by_count(similarities: Tensor, labels: Tensor, counts: Iterable[int], classes: int) -> dict[int, Tensor]:
    """For the first so many of k neighbours: the sums (M, classes) of similarities (M, k), plus 1, by label (M, k)."""
    weights, by_label = similarities + 1, F.one_hot(labels, classes).to(similarities)
    return {count: torch.einsum("nk,nkc->nc", weights[:, :count], by_label[:, :count]) for count in counts}


class NearestNeighbours(nn.Module):
    """Features (N, d) → scores (N, classes), whose softmax is the probability. Unfitted, all scores are 0.

    It holds the directions of all the images it was fitted to, as float32.
    """

    mean: Tensor
    known: Tensor
    labels: Tensor
    count: Tensor
    scale: Tensor

    def __init__(self, embedding_dim: int, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("known", torch.zeros(0, embedding_dim))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("scale", torch.tensor(1.0))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Chooses k and scale; returns the scores (N, classes) of each image by its neighbours among the others."""
        chosen = choose(left_out(features, labels, counts=NEIGHBOURS, classes=self._classes).items(), labels)
        self.mean.copy_(features.mean(0))
        self.known, self.labels = directions(features, self.mean), labels
        self.count.fill_(int(chosen.setting))
        self.scale.fill_(chosen.scale)
        return chosen.scores * chosen.scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scores(features, int(self.count))

    def scores(self, features: Tensor, count: int) -> Tensor:
        """As `forward`, of `count` neighbours: in an exported graph, their number must not be a tensor."""
        found = directions(features, self.mean)
        return self.scale * vote(found, self.known, self.labels, count=count, classes=self._classes)

    @property
    def setting(self) -> str:
        """What was chosen, in words."""
        return f"k={int(self.count)}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # How many images are known is up to the checkpoint.
        for name in ("known", "labels"):
            if (saved := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty_like(saved, device=self.mean.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
