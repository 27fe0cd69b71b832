"""Predictions of a whole split, from which every metric and figure of it is computed."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from headstart.files import write_text
from headstart.log import is_first_process
from headstart.metrics import compute_metrics
from headstart.model.classifier import Classifier
from headstart.training.data_module import ImageDataModule


@dataclass(frozen=True)
class Predictions:
    """Of N samples, in the order of the split: paths relative to the data's root, labels (N), log-probabilities
    (N, classes)."""

    paths: tuple[str, ...]
    labels: Tensor
    log_probs: Tensor

    def metrics(self, split: str) -> dict[str, float]:
        """Every metric by its full name, such as "test/acc"."""
        return compute_metrics(self.log_probs, self.labels, split)

    def true_ranks(self) -> Tensor:
        """The rank (N) of the true class by probability; 1 is the prediction."""
        # Stable, so that of two equal classes the first is the prediction, as argmax has it.
        by_rank = self.log_probs.argsort(dim=1, descending=True, stable=True)
        return (by_rank == self.labels[:, None]).int().argmax(1) + 1

    def write(self, path: Path, classes: tuple[str, ...]) -> None:
        """Writes a CSV with one row per sample: path, label, prediction, its probability, and the true class's rank."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "label", "prediction", "probability", "rank of true class"])
        found, best = self.log_probs.argmax(1), self.log_probs.amax(1).exp()
        columns = (self.labels.tolist(), found.tolist(), best.tolist(), self.true_ranks().tolist())
        for name, label, prediction, probability, rank in zip(self.paths, *columns, strict=True):
            writer.writerow([name, classes[label], classes[prediction], f"{probability:.6g}", rank])
        write_text(path, text.getvalue())


@torch.no_grad()
def predict_split(classifier: Classifier, loader: DataLoader[Any]) -> Predictions:
    """Predicts each sample of `loader` once, in order. Its dataset has a `split`; its sampler keeps the order."""
    classifier.eval()
    outputs = [classifier.predict_log_proba(batch.to(classifier.device)).cpu() for batch, _ in loader]
    split = loader.dataset.split  # type: ignore[attr-defined]
    return Predictions(split.paths, torch.tensor(split.labels), torch.cat(outputs))


def evaluate(classifier: Classifier, data: ImageDataModule, path: Path) -> dict[str, float]:
    """The metrics of the test split of `data`; writes its predictions to `path`."""
    predictions = predict_split(classifier, data.test_dataloader())
    if is_first_process():
        predictions.write(path, classifier.recipe.classes)
    return predictions.metrics("test")
