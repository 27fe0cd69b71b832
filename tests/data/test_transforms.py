from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from headstart.data.dataset import EvalTransform, EvalViewsTransform, TrainTransform, Transform
from headstart.data.preprocessing import Preprocessing, squared
from headstart.data.splits import derive_seed

SIZES = Preprocessing(resize_size=256, image_size=224)


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    return Image.fromarray(pixels)


def recipe(mode: InterpolationMode = InterpolationMode.BILINEAR) -> v2.Compose:
    """The training transform as in the tutorial."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size=256, scale=(0.8, 1.0), interpolation=mode),
            v2.RandomRotation(degrees=15),
            v2.RandomHorizontalFlip(),
            v2.CenterCrop(size=224),
            v2.PILToTensor(),
        ]
    )


def transforms(preprocessing: Preprocessing) -> tuple[Transform, Transform]:
    return TrainTransform(preprocessing, seed=0), EvalTransform(preprocessing)


def test_train__is_the_recipe_with_a_seed(image: Image.Image) -> None:
    for view in range(5):
        torch.manual_seed(derive_seed("augment", 7, view, 3))
        expected = recipe()(image)
        assert torch.equal(TrainTransform(SIZES, seed=7)(image, view, 3), expected)


def test_train__depends_on_seed_view_and_index_alone(image: Image.Image) -> None:
    transform = TrainTransform(SIZES, seed=0)
    expected = transform(image, 1, 2)
    torch.manual_seed(99)
    assert torch.equal(TrainTransform(SIZES, seed=0)(image, 1, 2), expected)
    assert expected.shape == (3, 224, 224)
    assert expected.dtype == torch.uint8
    for seed, view, index in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)):
        assert not torch.equal(TrainTransform(SIZES, seed)(image, view, index), expected)


def test_eval_views__are_the_image_its_mirror_image_and_augmented_ones(image: Image.Image) -> None:
    transform, plain = EvalViewsTransform(SIZES), EvalTransform(SIZES)(image, 0, 0)
    seen = [transform(image, view, 0) for view in range(6)]
    assert torch.equal(seen[0], plain)
    assert torch.equal(seen[1], plain.flip(2))
    assert all(view.shape == (3, 224, 224) and view.dtype == torch.uint8 for view in seen)
    assert len({view.numpy().tobytes() for view in seen}) == 6


def test_eval_views__are_the_same_wherever_the_image_stands(image: Image.Image) -> None:
    for view in range(4):
        torch.manual_seed(view)
        expected = EvalViewsTransform(SIZES)(image, view, 0)
        torch.manual_seed(99)
        assert torch.equal(EvalViewsTransform(SIZES)(image, view, 17), expected)


def test_eval_views__have_a_spec_of_their_own() -> None:
    specs = [transform.spec for transform in (*transforms(SIZES), EvalViewsTransform(SIZES))]
    assert len({str(spec) for spec in specs}) == 3
    other = EvalViewsTransform(replace(SIZES, image_size=200))
    assert other.spec != specs[2]


@pytest.mark.slow
def test_train__same_in_threads(image: Image.Image) -> None:
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


def test_preprocessing__round_trip_through_plain_values() -> None:
    values = SIZES.as_dict()
    assert values == {
        "resize_size": 256,
        "image_size": 224,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize_mode": "crop",
    }
    assert Preprocessing(**values) == SIZES


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
def test_interpolation__is_that_of_the_preprocessing(image: Image.Image, name: str) -> None:
    mode = InterpolationMode(name)
    train, evaluation = transforms(replace(SIZES, interpolation=name))
    expected = v2.Compose([v2.Resize(256, mode), v2.CenterCrop(224), v2.PILToTensor()])(image)
    assert torch.equal(evaluation(image, 0, 0), expected)
    torch.manual_seed(derive_seed("augment", 0, 1, 2))
    assert torch.equal(train(image, 1, 2), recipe(mode)(image))


def test_interpolation__changes_the_pixels(image: Image.Image) -> None:
    for bilinear, bicubic in zip(transforms(SIZES), transforms(replace(SIZES, interpolation="bicubic")), strict=True):
        assert not torch.equal(bilinear(image, 0, 0), bicubic(image, 0, 0))


def test_spec__names_all_that_the_result_depends_on() -> None:
    train, evaluation = transforms(SIZES)
    assert evaluation.spec == {"name": "eval"} | SIZES.as_dict()
    assert train.spec.items() >= SIZES.as_dict().items()
    assert train.spec != TrainTransform(SIZES, seed=1).spec
    assert train.spec != evaluation.spec


@pytest.mark.parametrize(
    "change",
    [
        {"resize_size": 300},
        {"image_size": 192},
        {"interpolation": "bicubic"},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_spec__changes_with_the_preprocessing(change: dict[str, Any]) -> None:
    for before, after in zip(transforms(SIZES), transforms(replace(SIZES, **change)), strict=True):
        assert before.spec != after.spec


def test_eval__squash_keeps_the_whole_image(image: Image.Image) -> None:
    squash = Preprocessing(40, 40, "bicubic", resize_mode="squash")
    expected = v2.functional.pil_to_tensor(image.resize((40, 40), Image.Resampling.BICUBIC))
    assert torch.equal(EvalTransform(squash)(image, 0, 0), expected)
    assert EvalTransform(squash).spec != EvalTransform(Preprocessing(40, 40, "bicubic")).spec


@pytest.mark.parametrize("mode", ["pad", "squash"])
def test_train__augments_the_whole_image_as_a_square(image: Image.Image, mode: str) -> None:
    sizes = replace(SIZES, resize_mode=mode)
    square = squared(image, sizes)
    assert torch.equal(TrainTransform(sizes, seed=3)(image, 1, 2), TrainTransform(SIZES, seed=3)(square, 1, 2))
    assert len({str(transform.spec) for transform in (*transforms(SIZES), *transforms(sizes))}) == 4
