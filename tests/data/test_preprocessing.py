"""Pillow's resize and crop give what torchvision's do, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from headstart.data.preprocessing import Preprocessing, center, resized_and_cropped, squared

# Width and height, from far smaller than the network's images to far larger, of odd and even differences.
SIZES = [(1, 1), (7, 300), (223, 224), (256, 256), (257, 256), (256, 301), (333, 1000), (1201, 640)]
CHOICES = [
    Preprocessing(256, 224),
    Preprocessing(236, 225, "bicubic"),
    Preprocessing(224, 224, "nearest"),
    Preprocessing(33, 32, "bicubic", resize_mode="squash"),
]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chosen", CHOICES)
def test_resized_and_cropped__is_torchvisions(size: tuple[int, int], chosen: Preprocessing) -> None:
    image = noise(*size)
    sides = 2 if chosen.resize_mode == "squash" else 1
    resize = v2.Resize([chosen.resize_size] * sides, InterpolationMode(chosen.interpolation))
    expected = v2.Compose([resize, v2.CenterCrop(chosen.image_size), v2.PILToTensor()])(image)
    found = np.array(resized_and_cropped(image, chosen)).transpose(2, 0, 1)
    assert torch.equal(torch.from_numpy(found), expected)


@pytest.mark.parametrize("size", SIZES)
def test_pad__shows_the_whole_image_between_margins_of_the_mean_colour(size: tuple[int, int]) -> None:
    chosen = Preprocessing(224, 224, "bicubic", mean=(0.2, 0.4, 0.6), resize_mode="pad")
    found = resized_and_cropped(noise(*size), chosen)
    width, height = (max(1, int(224 * edge / max(size))) for edge in size)
    left, top = (224 - width) // 2, (224 - height) // 2
    inner = (left, top, left + width, top + height)
    expected = noise(*size).resize((width, height), Image.Resampling.BICUBIC)
    assert found.size == (224, 224)
    assert found.crop(inner).tobytes() == expected.tobytes()
    found.paste((51, 102, 153), inner)
    assert found.getcolors() == [(224 * 224, (51, 102, 153))]


def test_squared__is_what_evaluation_crops_from() -> None:
    for mode in ("pad", "squash"):
        chosen = Preprocessing(40, 32, resize_mode=mode)
        square = squared(noise(90, 60), chosen)
        assert square.size == (40, 40)
        assert square.crop((4, 4, 36, 36)).tobytes() == resized_and_cropped(noise(90, 60), chosen).tobytes()
    image = noise(90, 60)
    assert squared(image, Preprocessing(40, 32)) is image


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (2, 20_001), (65, 1)])
@pytest.mark.parametrize("mode", ["crop", "pad", "squash"])
def test_elongated__takes_little_memory_and_shows_the_middle(size: tuple[int, int], mode: str) -> None:
    image = noise(*size)
    chosen = Preprocessing(256, 224, resize_mode=mode)
    assert resized_and_cropped(image, chosen).size == (224, 224)
    assert max(squared(image, chosen).size) <= 256 if mode != "crop" else max(squared(image, chosen).size) <= 129
    middle = center(image)
    assert min(middle.size) == min(size)
    assert max(middle.size) in (64 * min(size), 64 * min(size) + 1)
    left = ((size[0] - middle.width) / 2, (size[1] - middle.height) / 2)
    assert all(edge.is_integer() for edge in left)
    box = (int(left[0]), int(left[1]), int(left[0]) + middle.width, int(left[1]) + middle.height)
    assert middle.tobytes() == image.crop(box).tobytes()


def test_elongated__up_to_64_times_is_as_before() -> None:
    image = noise(640, 10)
    assert center(image) is image
    whole = image.resize((2048, 32), Image.Resampling.BILINEAR).crop((1008, 0, 1040, 32))
    assert resized_and_cropped(image, Preprocessing(32, 32)).tobytes() == whole.tobytes()
