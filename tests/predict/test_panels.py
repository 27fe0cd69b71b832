"""How much of an image its annotation hides."""

import errno
from pathlib import Path

import numpy as np
import pytest
from conftest import draw
from PIL import Image

from headstart.data.images import read_rgb
from headstart.predict import overlays
from headstart.predict.overlays import LARGEST_PANEL, Drawings, annotate
from headstart.predict.sources import Prediction

SHORT = tuple(f"class {number}" for number in range(3))
LONG = ("a very long class name that goes on and on", "another one that is as long as the first", "x")
MANY = tuple(f"class number {number}" for number in range(10))
WORDY = ("w" * 300, "v" * 300)


def annotated(prediction: Prediction) -> Image.Image:
    return annotate(read_rgb(prediction.path), prediction)


def prediction(names: tuple[str, ...]) -> Prediction:
    return Prediction(Path("a.jpg"), names, tuple(1 / (rank + 2) for rank in range(len(names))))


@pytest.mark.slow
@pytest.mark.parametrize("names", [SHORT, LONG, MANY, WORDY])
@pytest.mark.parametrize("size", [(16, 16), (240, 240), (300, 200), (640, 480), (3000, 60), (60, 3000), (1, 500)])
def test_annotation__hides_at_most_a_fifth(names: tuple[str, ...], size: tuple[int, int]) -> None:
    image = annotate(Image.new("RGB", size, (255, 0, 0)), prediction(names))
    pixels = np.asarray(image).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
    # Enlarged, and perhaps with a strip below.
    scale = image.width / size[0] if size[0] > 1 else 1
    original = size[0] * scale * size[1] * scale
    if size != (1, 500):
        assert red.sum() >= (1 - LARGEST_PANEL) * original - image.width
    assert (pixels.min(axis=2) > 200).any(), "white letters"


def test_annotation__below_the_image_where_it_does_not_fit() -> None:
    image = annotate(Image.new("RGB", (240, 240), (255, 0, 0)), prediction(MANY))
    assert image.width == 240
    assert image.height > 240
    pixels = np.asarray(image)
    assert (pixels[:240] == (255, 0, 0)).all(), "nothing is hidden"
    assert (pixels[241:].max(axis=2) > 180).sum() > 500, "readable"


def test_annotation__of_names_that_are_not_text() -> None:
    image = annotate(Image.new("RGB", (640, 480)), prediction(("caf\udce9", "two\nlines", "\x1b[0m", "")))
    rows = np.asarray(image).max(axis=(1, 2)) > 150
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) == 4


def test_annotation__all_lines_are_there() -> None:
    image = annotate(Image.new("RGB", (240, 240), "red"), prediction(MANY))
    rows = np.asarray(image)[240:].max(axis=(1, 2)) > 150
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) == len(MANY)


@pytest.mark.slow
def test_annotation__of_an_image_that_is_too_long_for_a_jpeg(tmp_path: Path) -> None:
    image = annotate(Image.new("RGB", (70_000, 300)), prediction(SHORT))
    assert image.width <= 65_500
    overlays.save(image, tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").width == image.width


def test_overlays__one_that_cannot_be_drawn_gets_an_error(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a.jpg", (9, 9, 9), seed=0)
    paths = [tmp_path / "in" / "a.jpg", tmp_path / "in" / "gone.jpg"]
    drawing = Drawings(tmp_path / "out", "annotated", paths, annotated)
    good, gone = (drawing.add(Prediction(path, SHORT, (0.5, 0.3, 0.2))) for path in paths)
    assert good.error is None
    assert (tmp_path / "out" / "annotated" / "a.jpg").is_file()
    assert gone.classes == SHORT
    assert gone.error is not None
    assert "gone.jpg cannot be annotated: " in gone.error
    unread = Prediction(paths[1], error="no")
    assert drawing.add(unread) is unread


def test_overlays__a_full_disk_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(image: Image.Image, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    draw(tmp_path / "a.jpg", (9, 9, 9), seed=0)
    monkeypatch.setattr(overlays, "save", full)
    drawing = Drawings(tmp_path / "out", "annotated", [tmp_path / "a.jpg"], annotated)
    with pytest.raises(OSError, match="No space left"):
        drawing.add(Prediction(tmp_path / "a.jpg", SHORT, (0.5, 0.3, 0.2)))
