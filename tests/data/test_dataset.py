from pathlib import Path

import pytest
import torch
from conftest import manifest_of

from headstart.config.data import SplitSettings
from headstart.data.dataset import ImageDataset, TrainTransform
from headstart.data.images import read_rgb
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError


@pytest.fixture
def dataset(flat: Path) -> ImageDataset:
    split = manifest_of(flat, SplitSettings(train=6, valid=3)).splits["train"]
    return ImageDataset(split, TrainTransform(Preprocessing(resize_size=40, image_size=32), seed=0))


def test_item__the_transformed_image_and_its_label(dataset: ImageDataset, flat: Path) -> None:
    image, label = dataset[2, 7]
    assert torch.equal(image, dataset.transform(read_rgb(flat / "green" / "1.jpg"), 2, 7))
    assert (len(dataset), label) == (18, 1)
    assert not torch.equal(image, dataset[3, 7][0])


def test_batch__items_in_order(dataset: ImageDataset) -> None:
    keys = [(1, 5), (0, 17), (1, 0)]
    for key, (image, label) in zip(keys, dataset.__getitems__(keys), strict=True):
        expected, expected_label = dataset[key]
        assert torch.equal(image, expected)
        assert label == expected_label


def test_plain_index__is_of_view_0(dataset: ImageDataset) -> None:
    assert torch.equal(dataset[4][0], dataset[0, 4][0])


def test_unreadable__raises_its_own_error(dataset: ImageDataset, flat: Path) -> None:
    (flat / "blue" / "0.jpg").write_bytes(b"")
    with pytest.raises(HeadstartError, match=r"blue/0\.jpg was changed after the images were checked"):
        dataset.__getitems__([(0, 0), (0, 1)])
