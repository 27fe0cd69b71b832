from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from headstart.data.transforms import EvalTransform, Preprocessing, TrainTransform

SIZES = Preprocessing(resize_size=256, image_size=224)


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    return Image.fromarray(pixels)


def recipe() -> v2.Compose:
    """The published recipe's training transform, spelt out."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size=256, scale=(0.8, 1.0)),
            v2.RandomRotation(degrees=15),
            v2.RandomHorizontalFlip(),
            v2.CenterCrop(size=224),
            v2.PILToTensor(),
        ]
    )


def test_train__is_the_recipe_under_a_seed(image: Image.Image) -> None:
    from headstart.seeds import derive_seed

    for view in range(5):
        torch.manual_seed(derive_seed("augment", 7, view, 3))
        expected = recipe()(image)
        assert torch.equal(TrainTransform(SIZES, seed=7)(image, view, 3), expected)


def test_train__depends_on_seed_view_and_index_alone(image: Image.Image) -> None:
    transform = TrainTransform(SIZES, seed=0)
    picture = transform(image, 1, 2)
    torch.manual_seed(99)
    assert torch.equal(TrainTransform(SIZES, seed=0)(image, 1, 2), picture)
    assert picture.shape == (3, 224, 224)
    assert picture.dtype == torch.uint8
    for seed, view, index in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)):
        assert not torch.equal(TrainTransform(SIZES, seed)(image, view, index), picture)


def test_train__in_threads_as_alone(image: Image.Image) -> None:
    transform = TrainTransform(SIZES, seed=0)
    alone = [transform(image, 0, index) for index in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda index: transform(image, 0, index), range(40)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_train__leaves_the_random_state_alone(image: Image.Image) -> None:
    before = torch.get_rng_state()
    TrainTransform(SIZES, seed=0)(image, 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_eval__is_the_recipe(image: Image.Image) -> None:
    expected = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])(image)
    assert torch.equal(EvalTransform(SIZES)(image, 0, 0), expected)


def test_preprocessing__survives_as_plain_values() -> None:
    values = SIZES.as_dict()
    assert values == {
        "resize_size": 256,
        "image_size": 224,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert Preprocessing.from_dict(values) == SIZES
