"""Heads fitted to all features at once, and the temperature of any head.

Nearest neighbours and ridge regression choose their settings by leaving each training image out, logistic regression by
cross-validation. Images that depend on each other, those of one unit, are left out together.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headstart.data.preprocessing import Array
from headstart.data.splits import unit_folds
from headstart.processes import thread_map

# Between which the temperature lies, and how far its logarithm is from 0 before any image was seen: the standard
# deviation of the prior, which allows for about 30 %.
BOUNDS = (0.05, 20.0)
PRIOR = 0.15
STEPS = 40  # of the bisections


def scale(log_probs: Tensor, temperature: Tensor | float) -> Tensor:
    """Returns log-probabilities (N, classes) at a temperature, which keeps their order (Guo et al. 2017)."""
    return F.log_softmax(log_probs / temperature, dim=1)


@torch.no_grad()
def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """Returns the most probable temperature of log-probabilities (N, classes) of images with `labels` (N).

    On the validation split, it makes probabilities match accuracies: Guo et al. 2017, "On Calibration of Modern Neural
    Networks". The prior log T ~ Normal(0, PRIOR²) keeps it near 1 where N images say little: the temperature of the
    lowest log-loss alone is, for small splits, more often worse than 1 for other images than better.
    """
    values = log_probs.clamp(min=-1e4).cpu().double()
    wanted = values.gather(1, labels.cpu()[:, None]).mean()
    low, high = (math.log(bound) for bound in BOUNDS)
    for _ in range(STEPS):
        u = (low + high) / 2
        factor = math.exp(-u)
        # The derivative, by u = log T, of N times the log-loss plus u² / (2 PRIOR²).
        expected = (F.softmax(values * factor, dim=1) * values).sum(1).mean()
        slope = len(values) * factor * float(wanted - expected) + u / PRIOR**2
        low, high = (low, u) if slope > 0 else (u, high)
    return math.exp((low + high) / 2)


@torch.no_grad()
def fit_scale(scores: Tensor, labels: Tensor, bounds: tuple[float, float]) -> float:
    """Returns the factor within `bounds` with which the softmax of scores (N, classes) has the lowest log-loss.

    `labels` (N) are smoothed as by Platt (1999): a share of 1 / (N + 2) is spread over all classes. Else the
    temperature of a classifier that is right about all N would be 0.
    """
    values, smoothing = scores.cpu().double(), 1 / (len(labels) + 2)
    own = values.gather(1, labels.cpu()[:, None])[:, 0]
    wanted = ((1 - smoothing) * own + smoothing * values.mean(1)).mean()
    low, high = bounds
    for _ in range(STEPS):
        factor = (low + high) / 2
        # The log-loss is convex in the factor, and this is its derivative.
        expected = (F.softmax(values * factor, dim=1) * values).sum(1).mean()
        low, high = (low, factor) if expected > wanted else (factor, high)
    return (low + high) / 2


# Between which the scale of scores lies. Of ridge regression they are differences of about 1, of neighbours of about k.
SCALES = (1e-3, 1e3)


@dataclass(frozen=True)
class Chosen:
    """A setting, its `scores` (N, classes), and the `scale` at which their softmax has the lowest log-loss."""

    setting: float
    scores: Tensor
    scale: float


def choose(scores: Iterable[tuple[float, Tensor]], labels: Tensor) -> Chosen:
    """Returns the setting whose scores (N, classes) have the highest accuracy and, of several, the lowest log-loss.

    The scores of each of N training images are those that it gets from all the others.
    """
    labels = labels.cpu()
    # Not a list: of many images and classes, scores take much memory.
    candidates = (Chosen(setting, values, fit_scale(values, labels, SCALES)) for setting, values in scores)
    return max(candidates, key=lambda chosen: _quality(chosen, labels))


def _quality(chosen: Chosen, labels: Tensor) -> tuple[float, float]:
    scores = chosen.scores.cpu().double()
    accuracy = (scores.argmax(1) == labels).double().mean()
    return float(accuracy), -float(F.cross_entropy(scores * chosen.scale, labels))


# Nearest neighbours by the cosine similarity of centred features.

NEIGHBOURS = (1, 5, 10, 20)
QUERIES = 256  # compared at a time with all images known


def directions(features: Tensor, mean: Tensor) -> Tensor:
    """Returns centred features (N, d), scaled to unit length."""
    return F.normalize(features - mean)


def vote(features: Tensor, known: Tensor, labels: Tensor, *, count: int, classes: int) -> Tensor:
    """Returns the votes (M, classes) of the `count` images nearest to each of `features` (M, d), by similarity.

    `features` and `known` (N, d) are directions, `labels` (N) those of `known`.
    """
    nearest = (features @ known.T).topk(min(count, len(known)), dim=1)
    return _by_count(nearest.values, labels[nearest.indices], (count,), classes)[count]


def left_out(
    features: Tensor, labels: Tensor, *, counts: Iterable[int], classes: int, units: Tensor | None = None
) -> dict[float, Tensor]:
    """Returns the votes (N, classes) on each of `features` (N, d) by the others, whose mean is subtracted, by count.

    Images of the same of `units` (N) have no vote on each other.
    """
    counts, others = sorted(counts), max(1, len(features) - 1)
    centred = features - features.mean(0)
    squares = centred.square().sum(1)
    parts: dict[float, list[Tensor]] = {count: [] for count in counts}
    for rows in torch.arange(len(features), device=features.device).split(QUERIES):
        own, products = squares[rows, None], centred[rows] @ centred.T
        # Without an image, the mean is 1/(N - 1) of the image's own distance further away from it.
        lengths = (squares + 2 * products / others + own / others**2).clamp(min=0).sqrt() * own.sqrt()
        similarities = ((products + own / others) / lengths.clamp(min=1e-12)).clamp(-1, 1)
        similarities[rows - rows[0], rows] = -1.0
        if units is not None:
            similarities[units[rows, None] == units] = -1.0
        nearest = similarities.topk(min(counts[-1], len(features) - 1), dim=1)
        for count, block in _by_count(nearest.values, labels[nearest.indices], counts, classes).items():
            parts[count].append(block)
    return {count: torch.cat(blocks) for count, blocks in parts.items()}


def _by_count(similarities: Tensor, labels: Tensor, counts: Iterable[int], classes: int) -> dict[int, Tensor]:
    """Returns, for the first `count` of k neighbours, sums (M, classes) of similarities (M, k) + 1 by label (M, k).

    So one with a similarity of -1 has no vote.
    """
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
    def fit(self, features: Tensor, labels: Tensor, units: Tensor | None = None) -> Tensor:
        """Chooses k and scale; returns the scores (N, classes) of each image by its neighbours in other units."""
        votes_of = left_out(features, labels, counts=NEIGHBOURS, classes=self._classes, units=units)
        chosen = choose(votes_of.items(), labels)
        self.mean.copy_(features.mean(0))
        self.known, self.labels = directions(features, self.mean), labels
        self.count.fill_(int(chosen.setting))
        self.scale.fill_(chosen.scale)
        return chosen.scores * chosen.scale

    def forward(self, features: Tensor) -> Tensor:
        return self.scores(features, int(self.count))

    def scores(self, features: Tensor, count: int) -> Tensor:
        """As `forward`, of `count` neighbours: in an exported graph, their number must not be a tensor."""
        queries = directions(features, self.mean)
        return self.scale * vote(queries, self.known, self.labels, count=count, classes=self._classes)

    @property
    def setting(self) -> str:
        """Returns the setting that was chosen, in words."""
        return f"k={int(self.count)}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # How many images are known is up to the checkpoint.
        for name in ("known", "labels"):
            if (saved := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty_like(saved, device=self.mean.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


# Ridge regression on one-hot labels.

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
ROWS = 4096  # in double precision at a time


class LeastSquares:
    """Ridge regression of one-hot labels Y (N, classes) on features X (N, d), both centred.

    The weights are (XᵀX + λI)⁻¹Xᵀ Y when N ≥ d, and Xᵀ(XXᵀ + λI)⁻¹Y otherwise: the two are equal, and the matrix to
    invert is the smaller one (Hastie et al. 2009, 3.4.1). λ is `penalty` times the mean variance of the features.
    """

    def __init__(self, features: Array, targets: Array) -> None:
        self.mean, self.prior = features.mean(0, dtype=np.float64), targets.mean(0)
        self._features, self._targets = features, targets - self.prior
        self._is_wide = len(features) < features.shape[1]
        parts = self._parts(features)
        if self._is_wide:
            self._centred = np.concatenate(list(parts))
            self._gram = self._centred @ self._centred.T
        else:
            self._gram = sum(part.T @ part for part in parts)

    def weights(self, penalty: float) -> Array:
        """Returns the weights (d, classes)."""
        gram = self._penalized(penalty)
        if self._is_wide:
            return self._centred.T @ np.linalg.solve(gram, self._targets)
        return np.linalg.solve(gram, self._transposed_times(self._targets))

    def scores(self, features: Array, weights: Array) -> Array:
        """Returns the scores (M, classes) of `features` (M, d): `(features - mean) @ weights + prior`."""
        return self._centred_times(features, weights) + self.prior

    def left_out(self, penalty: float, units: Array | None = None) -> Array:
        """Returns the scores (N, classes) of each image by the fit to the images of other `units` (N), with the same λ.

        They follow from the hat matrix H, without fitting N times: with the residuals e of the fit to all images, those
        of a unit u that is left out are (I - H_uu)⁻¹ e_u (Cook and Weisberg 1982, 2.2).
        """
        errors = self._targets - self._centred_times(self._features, self.weights(penalty))
        inverse = np.linalg.inv(self._penalized(penalty))
        single = np.maximum(1 - self._leverages(penalty, inverse) - 1 / len(errors), 1e-12)
        left_out = errors / single[:, None]
        for own in _repeated(units) if units is not None else ():
            rest = np.eye(len(own)) - self._hat(penalty, inverse, own) - 1 / len(errors)
            left_out[own] = np.linalg.lstsq(rest, errors[own], rcond=None)[0]
        return self._targets + self.prior - left_out

    def _strength(self, penalty: float) -> float:
        """Returns λ."""
        return strength_of(penalty, float(np.trace(self._gram)), len(self._gram))

    def _penalized(self, penalty: float) -> Array:
        return self._gram + self._strength(penalty) * np.eye(len(self._gram))

    def _leverages(self, penalty: float, inverse: Array) -> Array:
        """The diagonal (N) of the hat matrix of centred features; `inverse` is that of `_penalized`."""
        if self._is_wide:
            return 1 - self._strength(penalty) * inverse.diagonal()
        return np.concatenate([np.einsum("nd,nd->n", part @ inverse, part) for part in self._parts(self._features)])

    def _hat(self, penalty: float, inverse: Array, own: Array) -> Array:
        """The rows and columns (M, M) of the hat matrix that are of the images `own` (M)."""
        if self._is_wide:
            return np.eye(len(own)) - self._strength(penalty) * inverse[np.ix_(own, own)]
        centred = self._features[own] - self.mean
        return centred @ inverse @ centred.T

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


def _repeated(units: Array) -> Iterator[Array]:
    """Yields the indices (M) of the images of each unit that has several."""
    order = np.argsort(units, kind="stable")
    starts = np.flatnonzero(np.diff(units[order], prepend=-1))
    yield from (own for own in np.split(order, starts[1:]) if len(own) > 1)


def strength_of(penalty: float, scatter: float, rank: int) -> float:
    """Returns λ for centred features of at most this rank whose squares have the sum `scatter`."""
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
    def fit(self, features: Tensor, labels: Tensor, units: Tensor | None = None) -> Tensor:
        """Chooses penalty and scale; returns the scores (N, classes) of each image by the fit to other units."""
        fit = LeastSquares(features.cpu().numpy(), np.eye(len(self.prior))[labels.cpu().numpy()])
        by = None if units is None else units.cpu().numpy()
        chosen = choose(((penalty, torch.from_numpy(fit.left_out(penalty, by))) for penalty in PENALTIES), labels)
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
        """Returns the setting that was chosen, in words."""
        return f"penalty {float(self.penalty):g}"


# Logistic regression.

# The penalties to choose from, the strongest first.
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
# Images × features × classes above which a fold is fitted to a part of the others.
MOST_PRODUCTS = 2e8
# How much the mean cross-entropy curves along a score, where most images are classified with some certainty.
CURVATURE = 0.02
# Of the largest eigenvalue, the share below which one is rounding.
RANK_TOLERANCE = 1e-7
Weights = tuple[Array, Array]


class LogisticFits:
    """Multinomial logistic regression of `labels` (N) on standardized `features` (N, d), with several penalties.

    L-BFGS minimizes the mean cross-entropy plus penalty / 2 times the sum of the squared weights: scikit-learn's
    LogisticRegression with C = 1 / (N × penalty). The best weights are combinations of the images; with fewer images
    than features, their principal components are shorter, and steps in each suit its variance.
    """

    def __init__(self, features: Array, labels: Array, classes: int) -> None:
        self._mean, self._scale = features.mean(0), features.std(0) + 1e-6
        standardized, self._basis = (features - self._mean) / self._scale, None
        if len(standardized) < standardized.shape[1]:
            squares, directions = np.linalg.eigh(standardized @ standardized.T)
            is_spanned = squares > RANK_TOLERANCE * max(squares[-1], 1.0)
            lengths, directions = np.sqrt(squares[is_spanned]), directions[:, is_spanned]
            self._basis, standardized = standardized.T @ (directions / lengths), directions * lengths
        self._rows = np.ascontiguousarray(standardized, np.float32)
        self._variances = self._rows.var(0)
        self._targets = np.eye(classes, dtype=np.float32)[labels]

    def weights(self, penalty: float) -> Weights:
        """Returns the weights (d, classes) and biases (classes) of features that are not standardized."""
        weights, bias = self._fit(slice(None), penalty)
        weights = (weights if self._basis is None else self._basis @ weights) / self._scale[:, None]
        return weights, bias - self._mean @ weights

    def by_folds(self, folds: Array) -> Iterator[tuple[float, Array]]:
        """Yields each penalty, and the scores (N, classes) of each image by the fit to the other `folds` (N)."""
        numbers = np.unique(folds).tolist()
        starts: Sequence[Weights | None] = [None for _ in numbers]
        for penalty in STRENGTHS:
            # The solution for the stronger penalty is a good start.
            rest = [(self._some(np.flatnonzero(folds != fold)), penalty) for fold in numbers]
            starts = fits = thread_map(lambda given: self._fit(*given[0], given[1]), zip(rest, starts, strict=True))
            scores = np.zeros_like(self._targets)
            for fold, (weights, bias) in zip(numbers, fits, strict=True):
                scores[folds == fold] = self._rows[folds == fold] @ weights + bias
            yield penalty, scores

    def _some(self, rows: Array) -> Array:
        count = int(MOST_PRODUCTS / (max(1, self._rows.shape[1]) * self._targets.shape[1]))
        return rows if len(rows) <= count else np.random.default_rng(0).choice(rows, count, replace=False)

    def _fit(self, rows: Array | slice, penalty: float, start: Weights | None = None) -> Weights:
        # Imported here because it takes a quarter of a second.
        from scipy.optimize import minimize  # type: ignore[import-untyped]

        x, targets = self._rows[rows], self._targets[rows]
        shape = x.shape[1] + 1, targets.shape[1]
        # L-BFGS needs fewer steps where the loss curves alike in all directions.
        units = np.append(1 / np.sqrt(CURVATURE * self._variances + penalty), 1)[:, None]

        def loss(flat: Array) -> tuple[float, Array]:
            weights, (bias,) = np.split((flat.reshape(shape) * units).astype(np.float32), [-1])
            scores = x @ weights + bias
            scores -= scores.max(1, keepdims=True)
            probs = np.exp(scores)
            sums = probs.sum(1, keepdims=True)
            errors = (probs / sums - targets) / max(1, len(x))
            value = (np.log(sums[:, 0]) - (scores * targets).sum(1)).sum() / max(1, len(x))
            value += penalty / 2 * (weights**2).sum()
            slope = np.vstack([x.T @ errors + penalty * weights, errors.sum(0)]) * units
            return float(value), slope.ravel().astype(np.float64)

        initial = np.zeros(shape) if start is None else np.vstack(start) / units
        options = {"maxiter": 200, "ftol": 1e-8, "gtol": 1e-5}
        best = minimize(loss, initial.ravel(), jac=True, method="L-BFGS-B", options=options).x
        found = best.reshape(shape) * units
        return found[:-1].astype(np.float32), found[-1].astype(np.float32)


class Logistic(nn.Module):
    """Features (N, d) → scores (N, classes), whose softmax is the probability. Unfitted, all scores are 0."""

    weights: Tensor
    bias: Tensor
    penalty: Tensor

    def __init__(self, embedding_dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(embedding_dim, classes))
        self.register_buffer("bias", torch.zeros(classes))
        self.register_buffer("penalty", torch.tensor(0.0))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor, units: Tensor | None = None) -> Tensor:
        """Chooses the penalty with the lowest log-loss; returns scores (N, classes) by cross-validation."""
        known, by = labels.cpu().numpy(), None if units is None else units.cpu().numpy()
        fits = LogisticFits(features.cpu().numpy(), known, len(self.bias))
        lowest, best = math.inf, torch.zeros(len(labels), len(self.bias))
        for penalty, scores in fits.by_folds(unit_folds(known, by, seed=0)):
            log_loss = float(F.cross_entropy(torch.from_numpy(scores), labels.cpu()))
            if log_loss >= lowest:
                # Weaker ones overfit even more.
                break
            lowest, best = log_loss, torch.from_numpy(scores)
            self.penalty.fill_(penalty)
        for buffer, value in zip((self.weights, self.bias), fits.weights(float(self.penalty)), strict=True):
            buffer.copy_(torch.from_numpy(value))
        return best.to(features)

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weights + self.bias

    @property
    def setting(self) -> str:
        """Returns the setting that was chosen, in words."""
        return f"penalty {float(self.penalty):g}"


ClosedForm = Ridge | NearestNeighbours | Logistic
# The heads fitted at once, by the values of `model.head`.
CLOSED_FORM_HEADS: dict[str, type[ClosedForm]] = {"ridge": Ridge, "knn": NearestNeighbours, "logistic": Logistic}
