"""Predictions of many files: one bad one never costs the others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image

from headstart.config.features import EncoderSettings
from headstart.data.images import read_rgb
from headstart.model.checkpoint import load_classifier
from headstart.model.image_classifier import ImageClassifier
from headstart.predict import inputs
from headstart.predict.prediction import Prediction
from headstart.predict.predictor import Predictor


@pytest.fixture(scope="module")
def classifier(trained: Path) -> ImageClassifier:
    return load_classifier(trained / "checkpoints" / "best.ckpt", EncoderSettings(precision="32", compile=False), None)


def predict(classifier: ImageClassifier, paths: list[Path], workers: int = 0) -> list[Prediction]:
    device = torch.device("cpu")
    return list(Predictor(classifier, device).stream(paths, topk=2, batch_size=4, num_workers=workers))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(10)]
    for number, path in enumerate(paths):
        draw(path, (200, 50, 40), seed=number)
    return paths


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_files__get_a_row_with_the_reason(classifier: ImageClassifier, images: list[Path], workers: int) -> None:
    expected = predict(classifier, images)
    images[0].write_bytes(b"")
    images[3].write_text("not an image")
    # Resized to 40 pixels on its short edge, it would have 300 million pixels.
    images[4].unlink()
    Image.new("L", (200_000, 1)).save(images[4].with_suffix(".png"))
    images[4] = images[4].with_suffix(".png")
    for path in images[8:]:
        path.unlink()
    found = predict(classifier, images, workers)
    bad = (0, 3, 8, 9)
    assert [prediction.path for prediction in found] == images
    assert [index for index, prediction in enumerate(found) if prediction.error] == list(bad)
    for index in set(range(10)) - {4, *bad}:
        assert found[index].classes == expected[index].classes
        assert found[index].probabilities == pytest.approx(expected[index].probabilities, abs=1e-6)


def test_any_error_in_an_images_pipeline__is_its_own(
    classifier: ImageClassifier, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_or_fail(path: Path, depth: int) -> Image.Image:
        if path == images[5]:
            raise ZeroDivisionError
        return read_rgb(path, depth)

    monkeypatch.setattr(inputs, "read_rgb", read_or_fail)
    found = predict(classifier, images)
    assert [index for index, prediction in enumerate(found) if prediction.error] == [5]
    assert found[5].error == f"{images[5]} cannot be processed: ZeroDivisionError"


@pytest.mark.parametrize("views", [1, 2])
def test_each_core__predicts_what_batches_give(classifier: ImageClassifier, images: list[Path], views: int) -> None:
    predictor = Predictor(classifier, torch.device("cpu"))
    # With explanations, one batch is predicted after the other.
    by_batch = predictor.predict(images, views=views, explain=True, batch_size=3)
    by_core = predictor.predict(images, views=views)
    assert [found.path for found in by_core] == [found.path for found in by_batch] == images
    for one, other in zip(by_core, by_batch, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_files_of_another_depth__are_said(
    classifier: ImageClassifier, tmp_path: Path, messages: list[str], workers: int
) -> None:
    pixels = np.random.default_rng(0).integers(500, 4096, (40, 40)).astype(np.uint16)
    for name, factor in (("a.png", 1), ("b.png", 16)):
        Image.fromarray(pixels * factor).save(tmp_path / name)
    predict(classifier, [tmp_path / "a.png", tmp_path / "b.png"], workers)
    assert [message for message in messages if "bits" in message] == [
        f"1 of 2 16-bit images with only 12 of the 16 bits that the classifier reads, such as {tmp_path / 'a.png'}: "
        "they are seen too dark; scale their samples as those of the training images"
    ]


@pytest.mark.parametrize("form", ["TIFF", "GIF", "WEBP", "PNG"])
def test_more_pages_or_frames__are_counted(
    classifier: ImageClassifier, tmp_path: Path, messages: list[str], form: str
) -> None:
    pages = [Image.new("RGB", (40, 40), colour) for colour in ("red", "green", "blue")]
    for name in ("a", "b"):
        pages[0].save(tmp_path / name, form, save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "single", form)
    paths = [tmp_path / name for name in ("a", "b", "single")]
    predict(classifier, paths)
    assert messages == [f"2 files have more than one page or frame; only the first is used: {paths[0]}, {paths[1]}"]
