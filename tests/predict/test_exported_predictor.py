"""An exported model gives the predictions that its classifier gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image
from tiny_classifier import CLASSES, SIZES, tiny_classifier

from headstart.data.dataset import EvalTransform
from headstart.data.preprocessing import Array
from headstart.export.model_file import ModelInfo
from headstart.predict.predictor import Predictor
from headstart.predict.run import ExportedPredictor

PROVENANCE = ("tiny", "mlp", "0", 0.7, 0, "0", "0.1", "2.9", "2026-01-01")


class InMemory:
    """A model that is the classifier itself; of "any" size, it prepares images as the classifier's transform does."""

    def __init__(self, takes: str, threshold: float | None) -> None:
        self.info = ModelInfo(CLASSES, SIZES, threshold, takes, "float32", *PROVENANCE)
        self._classifier = tiny_classifier()
        self.counts: list[int] = []

    def __call__(self, images: Array) -> tuple[Array, Array]:
        if self.info.input == "any":
            images = EvalTransform(SIZES)(Image.fromarray(images), 0, 0).numpy()[None]
        self.counts.append(len(images))
        with torch.no_grad():
            features = self._classifier.embed(torch.from_numpy(images))
            return self._classifier.predict_proba(features).numpy(), self._classifier.familiarity(features).numpy()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Five images of several sizes, of which two cannot be read."""
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        draw(path, (60 * number, 50, 40), seed=number, size=(20 + 9 * number, 31))
    paths[1].write_text("not an image")
    paths[4].unlink()
    return paths


@pytest.mark.parametrize("takes", ["model", "any"])
def test_predictions__are_those_of_the_classifier(paths: list[Path], takes: str) -> None:
    classifier = tiny_classifier()
    threshold = float(classifier.familiarity.threshold)
    expected = Predictor(classifier, torch.device("cpu")).predict(paths, topk=2, min_confidence=0.5)
    model = InMemory(takes, threshold)
    found = ExportedPredictor(model).predict(paths, topk=2, min_confidence=0.5, batch_size=2)
    assert model.counts == ([1, 2] if takes == "model" else [1, 1, 1])
    for prediction, wanted in zip(found, expected, strict=True):
        assert prediction.probabilities == pytest.approx(wanted.probabilities, abs=1e-6)
        same = replace(prediction, probabilities=wanted.probabilities, familiarity=wanted.familiarity)
        assert same == wanted


def test_predictions__of_images_in_memory() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    predictor = ExportedPredictor(InMemory("model", None))
    found = predictor.predict(image, topk=9)
    assert predictor.classes == CLASSES
    assert [str(prediction.path) for prediction in found] == ["0", "1", "2"]
    assert all(len(prediction.classes) == 3 for prediction in found)
    # Nothing is known of which images are familiar.
    assert all((prediction.familiarity, prediction.doubt) == (None, None) for prediction in found)
