"""model.head=auto: the head that predicts images best from the others, by cross-validation on stored features.

It costs seconds, and comes before the training. Train and valid are pooled, because one small valid split would decide
by chance.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headstart.backbones.backbone import Backbone
from headstart.config.model import CLOSED_FORM, MEAN
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest
from headstart.data.splits import Array, derive_seed, unit_folds
from headstart.features.source import encode_unaugmented
from headstart.log import log
from headstart.model.classifier import training_loss
from headstart.model.closed_form import CLOSED_FORM_HEADS
from headstart.model.image_classifier import build_head
from headstart.model.recipe import Recipe, recipe_of

# Images that decide; more would take minutes.
MOST_IMAGES = 4000
# The first that is as good as the best is chosen. Two heads that make different mistakes are seldom worse together than
# either alone; of the others, logistic regression is the usual head on frozen features.
PREFERRED = (MEAN, "logistic", "ridge", "linear", "mlp", "knn")
# Standard errors by which a mean log-loss is worse by more than chance, and epochs without a lower one.
LIMIT, PATIENCE = 1.645, 5


@dataclass(frozen=True)
class Candidate:
    """The log-loss (N) of each image by a head that was fitted without it, and whether (N) its prediction is right."""

    kind: str
    losses: Array
    correct: Array

    @classmethod
    def of(cls, kind: str, scores: Tensor, labels: Tensor) -> "Candidate":
        """Returns the candidate whose scores (N, classes) these are."""
        losses = F.cross_entropy(scores.double(), labels, reduction="none")
        return cls(kind, losses.numpy(), (scores.argmax(1) == labels).numpy())

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def log_loss(self) -> float:
        return float(self.losses.mean())


def choose_head(settings: TrainSettings, manifest: Manifest, backbone: Backbone) -> str:
    """Returns the value of `model.head` that suits the images of train and valid best, and says why.

    Afterwards, `backbone` is on the device that trains.
    """
    splits = {name: manifest.splits[name] for name in ("train", "valid")}
    stored = encode_unaugmented(settings, replace(manifest, splits=splits), backbone)
    features = np.concatenate([np.asarray(stored[name], np.float32) for name in splits])
    labels = np.concatenate([np.array(split.labels) for split in splits.values()])
    units = np.concatenate([manifest.units[name] for name in splits])
    rows = np.sort(np.random.default_rng(derive_seed("heads", settings.seed)).permutation(len(labels))[:MOST_IMAGES])
    candidates = cross_validated(
        recipe_of(settings, backbone, manifest),
        *(torch.from_numpy(features[rows]), torch.from_numpy(labels[rows]), units[rows]),
        # Without a limit (-1), PATIENCE alone ends it.
        epochs=epochs if (epochs := settings.trainer.get("max_epochs") or 1) > 0 else sys.maxsize,
        batch_size=settings.data.batch_size,
    )
    chosen = best_of(candidates, units[rows])
    others = ", ".join(f"{c.kind} {c.accuracy:.3f}" for c in candidates if c is not chosen)
    log.info(
        "model.head=auto: %s, accuracy %.3f by cross-validation on train and valid (%s)",
        *(chosen.kind, chosen.accuracy, others),
    )
    return chosen.kind


def cross_validated(
    recipe: Recipe, features: Tensor, labels: Tensor, units: Array, *, epochs: int, batch_size: int
) -> list[Candidate]:
    """Returns how well each head predicts the labels (N) of features (N, d) from images of other `units` (N).

    Args:
        recipe: what the heads are made with, but for their kind.
        epochs, batch_size: of the heads that are trained step by step.
    """
    folds = unit_folds(labels.numpy(), units, recipe.seed)
    scores: dict[str, Tensor] = {}
    for kind in (kind for kind in PREFERRED if kind != MEAN):
        if kind in CLOSED_FORM:
            head = CLOSED_FORM_HEADS[kind](features.shape[1], len(recipe.classes))
            # A fold is left out as a unit is.
            scores[kind] = head.fit(features, labels, torch.from_numpy(folds))
        else:
            of_epochs = _by_epoch(replace(recipe, head=kind), features, labels, folds, batch_size)
            # Dropout must not depend on what was drawn before.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(derive_seed("heads", recipe.seed))
                scores[kind] = _best_epoch(islice(of_epochs, epochs), labels)
    # Of the probabilities. Their sum will do, because Candidate.of normalizes it.
    scores[MEAN] = torch.logaddexp(*(scores[kind].double().log_softmax(1) for kind in ("mlp", "ridge")))
    return [Candidate.of(kind, scores[kind], labels) for kind in PREFERRED]


def best_of(candidates: list[Candidate], units: Array) -> Candidate:
    """Returns the first that is not worse by more than chance than the one with the lowest log-loss.

    Images of the same of `units` (N) count as one.
    """
    best = min(candidates, key=lambda candidate: np.nan_to_num(candidate.log_loss, nan=np.inf))
    return next(c for c in candidates if c is best or not _is_worse(c, best, units))


def _is_worse(candidate: Candidate, best: Candidate, units: Array) -> bool:
    """Whether the log-loss, or the share of errors, is higher by more than LIMIT standard errors."""
    _, which = np.unique(units, return_inverse=True)
    for differences in (candidate.losses - best.losses, best.correct.astype(float) - candidate.correct):
        sums = np.bincount(which, weights=differences)
        # Written so that NaN is worse, too.
        if not sums.sum() <= LIMIT * np.sqrt((sums**2).sum()):
            return True
    return False


def _best_epoch(of_epochs: Iterator[Tensor], labels: Tensor) -> Tensor:
    """Returns the log-probabilities (N, classes) with the lowest log-loss; PATIENCE epochs after it, training stops."""
    lowest, waited = float("inf"), 0
    # Losses that are NaN are never lower.
    best = next(of_epochs)
    for scores in chain([best], of_epochs):
        log_loss = float(F.nll_loss(scores, labels))
        waited += 1
        if log_loss < lowest:
            lowest, best, waited = log_loss, scores, 0
        if waited == PATIENCE:
            break
    return best


def _by_epoch(recipe: Recipe, features: Tensor, labels: Tensor, folds: Array, batch_size: int) -> Iterator[Tensor]:
    """Yields, after each epoch, the log-probabilities (N, classes) of each image by the head without its fold."""
    generator = torch.Generator().manual_seed(derive_seed("heads", recipe.seed))
    others = {int(fold): torch.from_numpy(np.flatnonzero(folds != fold)) for fold in np.unique(folds)}
    heads = {fold: _new_head(recipe, features.shape[1]) for fold in others}
    while True:
        scores = features.new_zeros(len(labels), len(recipe.classes))
        for fold, (head, optimizer) in heads.items():
            order = others[fold][torch.randperm(len(others[fold]), generator=generator)]
            for batch in order.split(batch_size):
                optimizer.zero_grad()
                total, count = training_loss(head(features[batch]), labels[batch], None, recipe.label_smoothing)
                (total / count).backward()
                optimizer.step()
            own = torch.from_numpy(folds == fold)
            with torch.no_grad():
                scores[own] = head.eval()(features[own])
            head.train()
        yield scores


def _new_head(recipe: Recipe, width: int) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed("head", recipe.seed))
        head = build_head(recipe, width)
    return head, torch.optim.AdamW(head.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
