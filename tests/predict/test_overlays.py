from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.predict.overlays import annotate, drawing_places
from headstart.predict.sources import Prediction

PREDICTION = Prediction(Path("a.jpg"), ("giraffe", "llama", "ostrich"), (0.91, 0.06, 0.02))


@pytest.mark.parametrize("colour", ["black", "white", (128, 128, 128)])
@pytest.mark.parametrize("size", [(16, 16), (640, 480), (4000, 3000), (3000, 60), (60, 3000)])
def test_annotate__readable_text_at_the_top_right(colour: str | tuple[int, int, int], size: tuple[int, int]) -> None:
    image = annotate(Image.new("RGB", size, colour), PREDICTION)
    # Luminance of the panel's corner: a dark background and white letters, whatever the image.
    width, height = image.size
    edge = min(width, height)
    corner = np.asarray(image.convert("L"))[: edge // 6, -edge // 4 :]
    assert np.median(corner) < 90
    assert corner.max() > 240


def test_annotate__leaves_the_rest_of_the_image_unchanged() -> None:
    original = Image.new("RGB", (640, 480), (10, 200, 30))
    image = annotate(original, PREDICTION)
    assert image.size == (640, 480)
    assert image.getpixel((5, 475)) == (10, 200, 30)
    assert original.getpixel((639, 0)) == (10, 200, 30)


def test_annotate__long_names_stay_inside_the_image() -> None:
    long = Prediction(Path("a.jpg"), ("a very long class name that goes on and on" * 3,), (0.5,))
    image = annotate(Image.new("RGB", (400, 300), "white"), long)
    assert image.size == (400, 300)
    assert image.getpixel((2, 2)) == (255, 255, 255)


def test_drawing_places__keep_folders_and_never_collide() -> None:
    names = ("a/0.jpg", "b/0.jpg", "a/0.png", "b/1.png", "b/1.png.jpg")
    places = drawing_places([Path("in", name) for name in names])
    assert {path.as_posix(): place.as_posix() for path, place in places.items()} == {
        "in/a/0.jpg": "a/0.jpg",
        "in/b/0.jpg": "b/0.jpg",
        "in/a/0.png": "a/0.png.jpg",
        "in/b/1.png": "b/1.png.jpg.jpg",
        "in/b/1.png.jpg": "b/1.png.jpg",
    }


def test_drawing_places__never_lead_out_of_the_folder() -> None:
    places = drawing_places([Path("in/a/../../../0.jpg"), Path("in/a/1.jpg")])
    assert not any(".." in place.parts or place.is_absolute() for place in places.values())


@pytest.mark.parametrize("size", [(640, 480), (300, 200), (2000, 500), (200, 900), (240, 240)])
@pytest.mark.parametrize("topk", [1, 3, 10])
def test_annotate__hides_no_more_than_a_fifth_of_the_image(size: tuple[int, int], topk: int) -> None:
    image = Image.new("RGB", size, (250, 10, 10))
    names = tuple(f"class with a long name {number}" for number in range(topk))
    annotated = np.asarray(annotate(image, Prediction(Path("x"), names, (0.1,) * topk)))
    untouched = (annotated == (250, 10, 10)).all(axis=2).sum()
    scale = annotated.shape[1] / size[0]
    # A strip below the image adds to it; what is hidden is missing from the image itself.
    assert untouched >= 0.8 * size[0] * size[1] * min(scale, 1) ** 2
