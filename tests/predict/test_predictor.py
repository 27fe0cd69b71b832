"""Predictions of many files: one bad one never costs the others. Predictors in other processes."""

import copy
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image
from tiny_classifier import tiny_classifier

from headstart.config.model import EncoderSettings
from headstart.data.images import read_rgb
from headstart.errors import HeadstartError
from headstart.export.write import export_to
from headstart.model.checkpoint import load_classifier
from headstart.model.image_classifier import ImageClassifier
from headstart.predict import sources
from headstart.predict.predictor import Predictor, load_predictor
from headstart.predict.run import load
from headstart.predict.sources import Prediction


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

    monkeypatch.setattr(sources, "read_rgb", read_or_fail)
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


LONGEST = 300  # seconds, after which a process hangs
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked on this system")


@pytest.fixture
def predictor(trained: Path) -> Predictor:
    return load_predictor(trained, accelerator="cpu")


def labels(predictor: Any, images: list[Path], **options: Any) -> list[str | None]:
    return [prediction.label for prediction in predictor.predict(images, **options)]


def in_fork(work: Callable[[], object]) -> int:
    """The exit status of a forked process that does `work` and ends as a program does; 0 if that returns what is true.

    A process that hangs is killed by an alarm.
    """
    pid = os.fork()
    if pid == 0:
        signal.alarm(LONGEST)
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@needs_fork
@pytest.mark.parametrize("options", [{}, {"explain": True}], ids=["by core", "by batch"])
def test_forked__after_predictions(predictor: Predictor, images: list[Path], options: dict[str, Any]) -> None:
    # By now threads of the parent have decoded, and OpenMP has computed.
    expected = labels(predictor, images, **options)
    torch.ones(300, 300).matmul(torch.ones(300, 300))
    assert in_fork(lambda: labels(predictor, images, **options) == expected) == 0


@needs_fork
def test_forked__while_another_thread_predicts(predictor: Predictor, images: list[Path]) -> None:
    expected = labels(predictor, images)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with predictor._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_fork(lambda: labels(predictor, images) == expected) == 0
    finally:
        done.set()
        thread.join()


@needs_fork
def test_forked__a_pool_with_workers_asked_for(predictor: Predictor, images: list[Path]) -> None:
    expected = labels(predictor, images)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        # What is handed over is pickled; the processes of a pool may not start any.
        found = pool.starmap_async(labels_with_workers, [(predictor, images)] * 2).get(LONGEST)
    assert found == [expected, expected]


def labels_with_workers(predictor: Predictor, images: list[Path]) -> list[str | None]:
    return labels(predictor, images, num_workers=2)


def test_spawned(predictor: Predictor, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(labels, (predictor, images)).get(LONGEST) == labels(predictor, images)


def again(predictor: Any) -> Any:
    return pickle.loads(pickle.dumps(predictor))


@pytest.mark.parametrize("copied", [again, copy.deepcopy, copy.copy])
def test_copied__is_loaded_again_with_the_same_options(
    trained: Path, images: list[Path], copied: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(trained.parent)
    predictor = load_predictor(trained.name, accelerator="cpu", precision="32", compile=False)
    expected = labels(predictor, images)
    monkeypatch.chdir(tmp_path)
    found = copied(predictor)
    assert found is not predictor
    assert found.classifier is not predictor.classifier
    assert found.classifier.encoder.precision == "32"
    assert labels(found, images) == expected


def test_copied__of_a_checkpoint_that_has_changed_is_an_error(trained: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path))
    pickled = pickle.dumps(load_predictor(path, accelerator="cpu"))
    shutil.copy(trained / "checkpoints" / "last.ckpt", path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(HeadstartError, match=r"best\.ckpt has changed since it was loaded"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(HeadstartError, match=r"best\.ckpt cannot be read again in another process: No such file"):
        pickle.loads(pickled)


def test_copied__without_a_checkpoint_is_an_error(classifier: ImageClassifier) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        pickle.dumps(Predictor(classifier, torch.device("cpu")))


@needs_fork
def test_forked__from_a_gpu_is_an_error(predictor: Predictor, images: list[Path]) -> None:
    predictor._device = torch.device("cuda")

    def is_refused() -> bool:
        with pytest.raises(HeadstartError, match="a predictor on a GPU cannot be used in a forked process"):
            predictor.predict(images)
        return True

    assert in_fork(is_refused) == 0


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_exported_model__forked_and_copied(images: list[Path], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"model.{ending}"
    export_to(path, tiny_classifier(), None, precision="float32", input="model")
    predictor = load(path, accelerator="cpu")
    expected = labels(predictor, images)
    assert labels(again(predictor), images) == labels(copy.deepcopy(predictor), images) == expected
    if hasattr(os, "fork"):
        assert in_fork(lambda: labels(predictor, images) == expected) == 0
