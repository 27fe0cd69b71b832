"""Trains a classifier, and returns it with the best epoch's weights.

With model.head=auto, the head that predicts images best from the others is chosen first, by cross-validation on stored
features. That costs seconds. Train and valid are pooled, because one small valid split would decide by chance.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from headstart.backbones.backbone import Backbone
from headstart.config.model import AUTO, CLOSED_FORM, MEAN
from headstart.config.train import TrainSettings, with_head
from headstart.data.manifest import Manifest
from headstart.data.preprocessing import Array
from headstart.data.splits import derive_seed, unit_folds
from headstart.features.source import FeatureSource, encode_unaugmented
from headstart.log import log
from headstart.machine import training_device
from headstart.metrics import Row, full_names
from headstart.model.checkpoint import read_checkpoint
from headstart.model.classifier import Classifier, ClosedFormClassifier, build_classifier, training_loss
from headstart.model.closed_form import CLOSED_FORM_HEADS
from headstart.model.image_classifier import ImageClassifier, build_head
from headstart.model.recipe import Recipe, recipe_of
from headstart.program import ended_by_signals
from headstart.training.callbacks.best_and_last import BestAndLast
from headstart.training.callbacks.early_stopping import describe_end
from headstart.training.callbacks.history import History
from headstart.training.data_module import ImageDataModule
from headstart.training.trainer import build_trainer, lightning_errors

# Multiplications of a step's forward pass up to which threads wait for each other longer than they compute.
SHORT_STEP = 100e6
# Images that decide; more would take minutes.
MOST_IMAGES = 4000
# The first that is as good as the best is chosen. Two heads that make different mistakes are seldom worse together than
# either alone; of the others, logistic regression is the usual head on frozen features.
PREFERRED = (MEAN, "logistic", "ridge", "linear", "mlp", "knn")
# Standard errors by which a mean log-loss is worse by more than chance, and epochs without a lower one.
LIMIT, PATIENCE = 1.645, 5


@contextmanager
def cores_for_head(classifier: Classifier, batch_size: int) -> Iterator[None]:
    """Lets the steps of a new head on a frozen backbone use one core within the block, unless they are long.

    The backbone's forward passes use all of them: each encodes images of its own.
    """
    multiplications = batch_size * sum(parameter.numel() for parameter in classifier.head.parameters())
    recipe, threads = classifier.recipe, torch.get_num_threads()
    if recipe.finetune.first_epoch is None and not recipe.is_closed_form and multiplications <= SHORT_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# Lightning sets it, so that PyTorch asks NVIDIA's driver, which leaves CUDA untouched.
ASKS_DRIVER = "PYTORCH_NVML_BASED_CUDA_CHECK"


@contextmanager
def skip_cuda_probe() -> Iterator[None]:
    """Keeps PyTorch from looking for a GPU's driver again within the block, if there is none.

    Every step of an optimizer asks whether there is a GPU, and looking takes a twentieth of a step of a new head.
    """
    before = os.environ.get(ASKS_DRIVER)
    if torch.cuda.is_available() or before is None:
        yield
        return
    os.environ[ASKS_DRIVER] = "0"
    try:
        yield
    finally:
        os.environ[ASKS_DRIVER] = before


@dataclass(frozen=True)
class Fitted:
    """Holds what a fit gives: `classifier`, on the training device, has the best epoch's weights, counted from 1.

    `source` gives it the batches of its data.
    """

    classifier: ImageClassifier
    source: FeatureSource
    history: list[Row]
    best_epoch: int

    def metrics(self) -> dict[str, float]:
        """Returns the best epoch's validation metrics, its number, and how many epochs there were."""
        (row,) = (row for row in self.history if row["epoch"] == self.best_epoch)
        valid = {name: row[name] for name in sorted(full_names("valid")) if name in row}
        return valid | {"best_epoch": self.best_epoch, "epochs": len(self.history)}


def fit(settings: TrainSettings, manifest: Manifest, backbone: Backbone, callbacks: list[Callback]) -> Fitted:
    """Trains a new head for the classes of `manifest`, and the backbone as far as `settings.finetune` says.

    A closed-form head is computed instead, and the ridge regression of model.head=mean first.

    Raises:
        HeadstartError: the checkpoint does not fit, Lightning rejected a setting, or the training diverged.
    """
    # On SIGTERM, Lightning would end the program with status 0.
    with ended_by_signals(), lightning_errors(settings):
        if settings.model.head == AUTO:
            settings = with_head(settings, _chosen_head(settings, manifest, backbone))
        trainer = build_trainer(settings, callbacks)
        classifier = build_classifier(backbone, recipe_of(settings, backbone, manifest), settings.features)
        source = classifier.feature_source(settings, manifest)
        if isinstance(classifier, ClosedFormClassifier):
            classifier.order = torch.tensor(source.train_order())
            classifier.units = torch.from_numpy(manifest.units["train"])
        if classifier.recipe.head == MEAN and settings.ckpt_path is None:
            classifier.encoder.to(training_device(settings.trainer))
            features, labels = source.unaugmented_train().astype(np.float32), np.array(manifest.splits["train"].labels)
            classifier.fit_ridge(*map(torch.from_numpy, (features, labels, manifest.units["train"])))
        with cores_for_head(classifier, settings.data.batch_size), skip_cuda_probe():
            trainer.fit(classifier, ImageDataModule(settings, source), ckpt_path=settings.ckpt_path)
    (history,) = (callback for callback in trainer.callbacks if isinstance(callback, History))  # type: ignore[attr-defined]
    (best,) = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast))
    log.info("%s", describe_end(trainer, best.epoch_of_weights))
    log.info("time spent: %s", history.clock.total)
    # The Trainer has moved it to the CPU.
    classifier.to(trainer.strategy.root_device)
    return Fitted(classifier, source, history.rows, best.epoch_of_weights)


def _chosen_head(settings: TrainSettings, manifest: Manifest, backbone: Backbone) -> str:
    if settings.ckpt_path is not None:
        return str(read_checkpoint(Path(settings.ckpt_path))["hyper_parameters"]["head"])
    return choose_head(settings, manifest, backbone)


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
