"""Any list of torchvision's v2 transforms as a pure function."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import v2

from headstart.config.model import RECIPE
from headstart.data.dataset import DRAW_FIRST, Augmentation, TrainTransform, _Random
from headstart.data.preprocessing import Preprocessing
from headstart.data.splits import derive_seed
from headstart.errors import HeadstartError

SIZES = Preprocessing(resize_size=40, image_size=32)
PREFIX = "torchvision.transforms.v2."
# What transforms need where they have no defaults that suit a small image.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "RandomResizedCrop": {"size": 32},
    "RandomCrop": {"size": 32},
    "RandomRotation": {"degrees": 15},
    "RandomAffine": {"degrees": 15, "translate": [0.1, 0.1]},
    "ColorJitter": {"brightness": 0.5, "hue": 0.1},
    "RandomSolarize": {"threshold": 100},
    "RandomPosterize": {"bits": 3},
    "RandomAdjustSharpness": {"sharpness_factor": 2},
    "GaussianBlur": {"kernel_size": 5},
    "JPEG": {"quality": [10, 90]},
    "Resize": {"size": 32},
    "CenterCrop": {"size": 32},
    "Pad": {"padding": 3},
}


def entry(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": PREFIX + name} | arguments


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8))


def options() -> dict[str, Any]:
    """The transforms of each option of the group."""
    files = (ROOT / "conf/augment").glob("*.yaml")
    return {path.stem: OmegaConf.to_object(OmegaConf.load(path).transforms) for path in files}


def test_recipe__is_that_of_older_versions() -> None:
    assert options()["recipe"] == RECIPE
    assert "transforms" not in TrainTransform(SIZES, 0, options()["recipe"]).spec


@pytest.mark.parametrize("name", ["recipe", "light", "strong"])
def test_option__is_a_pure_function(image: Image.Image, name: str) -> None:
    transform = TrainTransform(SIZES, 0, options()[name])
    alone = [transform(image, 0, index) for index in range(30)]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda index: transform(image, 0, index), range(30)))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len({view.numpy().tobytes() for view in alone}) > 25
    assert not torch.equal(TrainTransform(SIZES, 1, options()[name])(image, 0, 0), alone[0])


def test_specs__are_those_of_the_lists() -> None:
    specs = [str(TrainTransform(SIZES, 0, options()[name]).spec) for name in ("recipe", "light", "strong")]
    assert len({*specs, str(TrainTransform(SIZES, 0, RECIPE[:1] + RECIPE[2:]).spec)}) == 4


@pytest.mark.parametrize("kind", DRAW_FIRST, ids=lambda kind: kind.__name__)
def test_draw_first__is_the_transform_with_a_seed(image: Image.Image, kind: type[v2.Transform]) -> None:
    # Of a transform that drew numbers while it worked on the pixels, they would not be those of the seed.
    transform = kind(**ARGUMENTS.get(kind.__name__, {}))
    given = v2.functional.to_image(image) if kind in (v2.RandomErasing, v2.JPEG) else image
    for seed in range(8):
        torch.manual_seed(seed)
        expected = transform(given)
        torch.manual_seed(99)
        found = _Random(seed).applied(transform, given)
        assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_list__is_compose_with_a_seed(image: Image.Image) -> None:
    entries = [
        entry("RandomChoice", transforms=[entry("ColorJitter", hue=0.3), entry("TrivialAugmentWide")]),
        entry("RandomResizedCrop", size="image_size", interpolation="bicubic"),
        entry("ToImage"),
    ]
    compose = v2.Compose(
        [
            v2.RandomChoice([v2.ColorJitter(hue=0.3), v2.TrivialAugmentWide()]),
            v2.RandomResizedCrop(32, interpolation=v2.InterpolationMode.BICUBIC),
            v2.PILToTensor(),
        ]
    )
    for view in range(6):
        torch.manual_seed(derive_seed("augment", 5, view, 1))
        assert torch.equal(TrainTransform(SIZES, 5, entries)(image, view, 1), compose(image))


def test_words__stand_for_the_preprocessing(image: Image.Image) -> None:
    entries = [entry("Resize", size=["resize_size", "resize_size"], interpolation="interpolation")]
    sizes = replace(SIZES, image_size=40, interpolation="nearest")
    found = Augmentation(entries, sizes)(image, 0)
    expected = np.asarray(image.resize((40, 40), Image.Resampling.NEAREST)).transpose(2, 0, 1)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([entry("RandomCorp", size=32)], "torchvision has no v2 transform RandomCorp"),
        ([entry("InterpolationMode")], "torchvision has no v2 transform InterpolationMode"),
        ([entry("RandomCrop", sice=32)], "RandomCrop rejects its arguments: .*sice"),
        ([entry("RandomCrop", size=30)], r"must give uint8 \(3, 32, 32\), .* not torch.uint8 \(3, 30, 30\): end them"),
        ([entry("CenterCrop", size=32), entry("PILToTensor"), entry("ConvertImageDtype")], "not torch.float32"),
        ([entry("RandomErasing")], r"augment.transforms: RandomErasing failed on an image|must give uint8"),
        ([entry("LinearTransformation")], "LinearTransformation rejects its arguments"),
    ],
)
def test_mistake__is_one_sentence(image: Image.Image, entries: list[Any], sentence: str) -> None:
    with pytest.raises(HeadstartError, match=sentence) as caught:
        Augmentation(entries, SIZES)(image, 0)
    assert "augment.transforms" in str(caught.value)
    assert "\n" not in str(caught.value)
