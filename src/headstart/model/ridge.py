"""Ridge regression on one-hot labels, in closed form, and what it says of each image when it is left out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headstart.model.leave_one_out import choose

Array = np.ndarray[Any, np.dtype[Any]]
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
ROWS = 4096  # in double precision at a time


class LeastSquares:
    """Fits one-hot labels (N, classes) to features (N, d), both centred.

    `penalty` is relative to the mean variance of the features.
    """

    def __init__(self, features: Array, targets: Array) -> None:
        self.mean, self.prior = features.mean(0, dtype=np.float64), targets.mean(0)
        self._features, self._targets = features, targets - self.prior
        # Of the two equal forms, the one with the smaller matrix.
        self._is_wide = len(features) < features.shape[1]
        parts = self._parts(features)
        if self._is_wide:
            self._centred = np.concatenate(list(parts))
            self._gram = self._centred @ self._centred.T
        else:
            self._gram = sum(part.T @ part for part in parts)

    def weights(self, penalty: float) -> Array:
        """The weights (d, classes)."""
        gram = self._penalized(penalty)
        if self._is_wide:
            return self._centred.T @ np.linalg.solve(gram, self._targets)
        return np.linalg.solve(gram, self._transposed_times(self._targets))

    def scores(self, features: Array, weights: Array) -> Array:
        """Those (M, classes) of images with `features` (M, d): `(features - mean) @ weights + prior`."""
        return self._centred_times(features, weights) + self.prior

    def left_out(self, penalty: float) -> Array:
        """The scores (N, classes) of each image by the fit to the others, with the same absolute penalty.

        From the diagonal of the hat matrix, without fitting N times.
        """
        weights = self.weights(penalty)
        errors = self._targets - self._centred_times(self._features, weights)
        errors /= np.maximum(1 - self._leverages(penalty) - 1 / len(errors), 1e-12)[:, None]
        return self._targets + self.prior - errors

    def _strength(self, penalty: float) -> float:
        """The absolute penalty."""
        return strength_of(penalty, float(np.trace(self._gram)), len(self._gram))

    def _penalized(self, penalty: float) -> Array:
        return self._gram + self._strength(penalty) * np.eye(len(self._gram))

    def _leverages(self, penalty: float) -> Array:
        """The diagonal (N) of the hat matrix of centred features."""
        inverse = np.linalg.inv(self._penalized(penalty))
        if self._is_wide:
            return 1 - self._strength(penalty) * inverse.diagonal()
        return np.concatenate([np.einsum("nd,nd->n", part @ inverse, part) for part in self._parts(self._features)])

    def _transposed_times(self, matrix: Array) -> Array:
        """Centred features, transposed, times `matrix` (N, M)."""
        places = range(0, len(matrix), ROWS)
        parts = zip(places, self._parts(self._features), strict=True)
        return np.sum([part.T @ matrix[start : start + ROWS] for start, part in parts], axis=0)

    def _centred_times(self, features: Array, weights: Array) -> Array:
        return np.concatenate([part @ weights for part in self._parts(features)])

    def _parts(self, features: Array) -> Iterator[Array]:
        """Centred, ROWS at a time."""
        for start in range(0, max(1, len(features)), ROWS):
            yield features[start : start + ROWS] - self.mean


def strength_of(penalty: float, scatter: float, rank: int) -> float:
    """The absolute penalty, for centred features of at most this rank whose squares have the sum `scatter`."""
    return max(penalty * scatter / rank, 1e-12)


class Ridge(nn.Module):
    """Features (N, d) → scores (N, classes), whose softmax is the probability. Unfitted, all scores are 0."""

    mean: Tensor
    weights: Tensor
    prior: Tensor
    penalty: Tensor
    scale: Tensor

    def __init__(self, embedding_dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("weights", torch.zeros(embedding_dim, classes))
        self.register_buffer("prior", torch.zeros(classes))
        self.register_buffer("penalty", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(1.0))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Chooses penalty and scale; returns the scores (N, classes) of each image by the fit to the others."""
        fit = LeastSquares(features.cpu().numpy(), np.eye(len(self.prior))[labels.cpu().numpy()])
        chosen = choose(((penalty, torch.from_numpy(fit.left_out(penalty))) for penalty in PENALTIES), labels)
        values = (fit.mean, fit.weights(chosen.setting), fit.prior)
        for buffer, value in zip((self.mean, self.weights, self.prior), values, strict=True):
            buffer.copy_(torch.from_numpy(value).float())
        self.penalty.fill_(chosen.setting)
        self.scale.fill_(chosen.scale)
        return (chosen.scores * chosen.scale).to(features)

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * ((features - self.mean) @ self.weights + self.prior)

    @property
    def setting(self) -> str:
        """What was chosen, in words."""
        return f"penalty {float(self.penalty):g}"
