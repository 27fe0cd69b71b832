"""Whether an image is like those trained on: the cosine similarity of its features to the nearest class mean."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headstart.data.sampler import IGNORED
from headstart.processes import world_size

# The share of the validation images that count as unfamiliar.
UNFAMILIAR = 0.05


class Familiarity(nn.Module):
    """Features (N, d) → scores (N) from -1 to 1. Below `threshold`, an image is unlike anything trained on.

    Features and means are centred on the mean of the training features. The means are of the features that an epoch
    was trained on; `threshold` is -inf until it is fitted.
    """

    center: Tensor
    directions: Tensor
    threshold: Tensor

    def __init__(self, classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(embedding_dim))
        # Of unit length; of a class without images, zeros.
        self.register_buffer("directions", torch.zeros(classes, embedding_dim))
        self.register_buffer("threshold", torch.tensor(-torch.inf))
        self.reset()

    def reset(self) -> None:
        """Forgets what was observed."""
        # Not buffers, because an average of the weights would average these too.
        self._sums, self._counts = torch.zeros_like(self.directions), torch.zeros(len(self.directions))

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor) -> None:
        """Adds a training batch, except for what has the label IGNORED."""
        if world_size() > 1:
            features, labels = features[labels != IGNORED], labels[labels != IGNORED]
        self._sums = self._sums.to(features.device).index_add_(0, labels, features.detach())
        self._counts = self._counts.to(features.device) + torch.bincount(labels, minlength=len(self._counts))

    @property
    def observed(self) -> tuple[Tensor, Tensor]:
        """The sum of the features (classes, d) and the number of images (classes) observed of each class."""
        return self._sums, self._counts

    @torch.no_grad()
    def fit_means(self, sums: Tensor, counts: Tensor) -> None:
        """From what was observed, by all processes together. Nothing changes if that is nothing."""
        if not counts.sum():
            return
        present = counts > 0
        self.center.copy_(sums.sum(0) / counts.sum())
        means = sums[present] / counts[present, None] - self.center
        self.directions.zero_()[present] = F.normalize(means)

    @torch.no_grad()
    def fit_threshold(self, scores: Tensor) -> None:
        """From the scores (N) of the validation images."""
        if self.directions.any():
            self.threshold.copy_(scores.double().quantile(UNFAMILIAR))

    def forward(self, features: Tensor) -> Tensor:
        similarities = F.normalize(features - self.center) @ self.directions.T
        is_missing = ~self.directions.any(1)
        # Rounding lets the cosine of equal directions exceed 1.
        return similarities.masked_fill(is_missing, -1.0).amax(1).clamp(-1, 1)
