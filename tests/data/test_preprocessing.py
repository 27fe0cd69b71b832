"""Pillow's resize and crop give what torchvision's do, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from headstart.data.preprocessing import Preprocessing, resized_and_cropped

# Width and height, from far smaller than the network's images to far larger, of odd and even differences.
SIZES = [(1, 1), (7, 300), (223, 224), (256, 256), (257, 256), (256, 301), (333, 1000), (1201, 640)]
CHOICES = [
    Preprocessing(256, 224),
    Preprocessing(236, 225, "bicubic"),
    Preprocessing(224, 224, "nearest"),
    Preprocessing(33, 32, "bicubic", resize_mode="squash"),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chosen", CHOICES)
def test_resized_and_cropped__is_torchvisions(size: tuple[int, int], chosen: Preprocessing) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    sides = 2 if chosen.resize_mode == "squash" else 1
    resize = v2.Resize([chosen.resize_size] * sides, InterpolationMode(chosen.interpolation))
    expected = v2.Compose([resize, v2.CenterCrop(chosen.image_size), v2.PILToTensor()])(image)
    found = np.array(resized_and_cropped(image, chosen)).transpose(2, 0, 1)
    assert torch.equal(torch.from_numpy(found), expected)
