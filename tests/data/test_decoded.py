import pickle
from pathlib import Path

import pytest
import torch
from conftest import manifest_of
from PIL import Image
from torch.utils.data import DataLoader

from headstart.config.data import SplitSettings
from headstart.data import manifest as module
from headstart.data.dataset import BYTES_PER_PIXEL, DecodedImages, ImageDataset, TrainTransform
from headstart.data.images import read_rgb
from headstart.data.preprocessing import Preprocessing

SIZE = 10 * 10 * BYTES_PER_PIXEL


def reads(images: DecodedImages, indices: list[int]) -> list[int]:
    """Which of them are read."""
    found: list[int] = []

    def read(index: int) -> Image.Image:
        found.append(index)
        return Image.new("RGB", (10, 10), (index, 0, 0))

    for index in indices:
        image = images.get(index, lambda index=index: read(index))  # type: ignore[misc]
        assert image.getpixel((0, 0)) == (index, 0, 0)
    return found


@pytest.mark.parametrize(("room", "again"), [(0, [0, 1, 2, 3]), (2 * SIZE, [2, 3]), (100 * SIZE, [])])
def test_get__reads_again_only_what_does_not_fit(room: int, again: list[int]) -> None:
    images = DecodedImages(room)
    assert reads(images, [0, 1, 2, 3]) == [0, 1, 2, 3]
    assert reads(images, [0, 1, 2, 3]) == again
    assert reads(pickle.loads(pickle.dumps(images)), [0, 1, 2, 3]) == again


def test_dataset__same_images_decoded_once(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = manifest_of(flat, SplitSettings(train=6, valid=3)).splits["train"]
    transform = TrainTransform(Preprocessing(resize_size=40, image_size=32), seed=0)
    plain, kept = ImageDataset(split, transform), ImageDataset(split, transform, keep_bytes=10**9)
    read: list[Path] = []
    expected = {(view, i): plain[view, i][0] for view in range(3) for i in range(len(split))}

    def remember(path: Path, depth: int, sha256: str | None) -> Image.Image:
        read.append(path)
        return read_rgb(path, depth, sha256)

    monkeypatch.setattr(module, "read_rgb", remember)
    for view in range(3):
        keys = [(view, i) for i in range(len(split))]
        for key, (image, _) in zip(keys, kept.__getitems__(keys), strict=True):
            assert torch.equal(image, expected[key])
    assert len(read) == len(split)


@pytest.mark.slow
def test_workers__each_has_its_share(flat: Path) -> None:
    split = manifest_of(flat, SplitSettings(train=6, valid=3)).splits["train"]

    class Sizes(ImageDataset):
        def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[torch.Tensor, int]]:
            super().__getitems__(keys)
            return [(torch.tensor(self._decoded._size), 0)]

    transform = TrainTransform(Preprocessing(resize_size=40, image_size=32), seed=0)
    width, height = read_rgb(flat / "red" / "0.jpg").size
    room = 4 * width * height * BYTES_PER_PIXEL
    sizes = Sizes(split, transform, keep_bytes=room)
    loader = DataLoader(sizes, batch_size=9, num_workers=2, collate_fn=lambda batch: batch[0][0].item())
    assert sum(loader) == room
