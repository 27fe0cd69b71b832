"""The predictor from Python: every kind of source, several threads, features, and what it imports."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

import headstart
from headstart.errors import HeadstartError
from headstart.predict.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return headstart.load(trained, accelerator="cpu", precision="32", compile=False)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(found):
        draw(path, (40 * number, 50, 40), seed=number)
    return found


def test_sources__all_give_the_same(predictor: Predictor, paths: list[Path]) -> None:
    expected = predictor.predict(paths)
    images = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in images]
    tensors = [pil_to_tensor(image) for image in images]
    sources: list[Any] = [
        *(paths[0].parent, str(paths[0].parent), str(paths[0].parent / "*.png"), [str(path) for path in paths]),
        *(images, arrays, tensors, np.stack(arrays), torch.stack(tensors), iter([paths[0], images[1], *arrays[2:]])),
    ]
    for source in sources:
        for found, wanted in zip(predictor.predict(source), expected, strict=True):
            assert found.classes == wanted.classes
            assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-6)
            assert found.familiarity == pytest.approx(wanted.familiarity, abs=1e-5)
    (single,) = predictor.predict(images[3])
    assert single.label == expected[3].label
    assert single.path == Path("0")
    assert predictor.classes == ("blue", "green", "red")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "source=nowhere is not a file or folder"),
        ([], "there are no images to predict"),
        (3, "not int"),
        (np.zeros((4, 4, 3)), "an array must be uint8 (H×W or H×W×3), not float64 (4, 4, 3)"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "a tensor must be uint8 (3×H×W), not torch.uint8 (4, 4, 3)"),
    ],
    ids=str,
)
def test_sources__that_are_none(predictor: Predictor, source: Any, says: str) -> None:
    with pytest.raises(HeadstartError) as error:
        predictor.predict(source)
    assert says in str(error.value)


def test_bad_files__get_an_error_and_cannot_be_embedded(predictor: Predictor, paths: list[Path]) -> None:
    paths[2].write_text("no image")
    found = predictor.predict([*paths, paths[0].parent / "gone.png"])
    assert [prediction.label is None for prediction in found] == [False, False, True, False, False, True]
    with pytest.raises(HeadstartError, match=r"2\.png"):
        predictor.embed(paths)


def test_embed__gives_the_features_that_the_head_takes(predictor: Predictor, paths: list[Path]) -> None:
    features = predictor.embed(paths)
    assert features.shape == (5, predictor.classifier.encoder.embedding_dim)
    assert features.dtype == np.float32
    probabilities = predictor.classifier.predict_proba(torch.from_numpy(features)).amax(1)
    wanted = [prediction.probabilities[0] for prediction in predictor.predict(paths)]
    assert probabilities.tolist() == pytest.approx(wanted, abs=1e-6)


def test_threads__may_share_a_predictor(predictor: Predictor, paths: list[Path]) -> None:
    alone = [predictor.predict(path, topk=1)[0].probabilities for path in paths]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: predictor.predict(paths[i % 5], topk=1)[0].probabilities, range(40)))
    for index, probabilities in enumerate(found):
        assert probabilities == pytest.approx(alone[index % 5], abs=1e-6)


def test_load__needs_neither_lightning_nor_hydra(trained: Path, paths: list[Path]) -> None:
    code = f"""
import sys, headstart
assert "torch" not in sys.modules
import headstart.predict.predictor  # what predict.py uses
found = headstart.load({str(trained)!r}).predict({str(paths[0])!r})
heavy = ("pytorch_lightning", "hydra", "tensorboard", "matplotlib")
print(found[0].label, [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split(maxsplit=1)[1] == "[]\n", done.stderr
