from pathlib import Path

import pytest
import torch
from conftest import draw

from headstart.data.manifest import scan
from headstart.data.module import PictureDataModule, check_all_readable
from headstart.data.transforms import Preprocessing
from headstart.errors import UnreadableImage
from headstart.settings import SplitSettings


def module(root: Path, *, num_workers: int = 0, batch_size: int = 4) -> PictureDataModule:
    return PictureDataModule(
        scan(root, SplitSettings(train=6, valid=3), seed=0),
        preprocessing=Preprocessing(resize_size=40, image_size=32),
        batch_size=batch_size,
        num_workers=num_workers,
        seed=0,
    )


def epoch_of(data: PictureDataModule, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [(images, labels) for images, labels in loader]


def test_batches__same_with_and_without_workers(flat: Path) -> None:
    plain, parallel = (epoch_of(module(flat, num_workers=n), epoch=2) for n in (0, 2))
    assert len(plain) == len(parallel) == 5
    for (images, labels), (others, other_labels) in zip(plain, parallel, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
    assert plain[0][0].dtype == torch.uint8


def test_pictures__same_in_any_batch(flat: Path) -> None:
    small, large = (epoch_of(module(flat, batch_size=n), epoch=1) for n in (4, 7))
    assert torch.equal(torch.cat([x for x, _ in small]), torch.cat([x for x, _ in large]))


def test_views__differ_in_training_and_not_in_validation(flat: Path) -> None:
    data = module(flat)
    first, second = (torch.cat([x for x, _ in epoch_of(data, epoch)]) for epoch in (0, 1))
    assert not torch.equal(first, second)
    loader = data.val_dataloader()
    again = torch.cat([x for x, _ in loader])
    loader.sampler.set_epoch(1)
    assert torch.equal(again, torch.cat([x for x, _ in loader]))


def test_check_all_readable__names_the_file(flat: Path) -> None:
    data = module(flat)
    check_all_readable(data.manifest)
    (flat / "red" / "5.jpg").write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"red/5\.jpg .*the file is empty"):
        check_all_readable(data.manifest)


def test_unreadable__keeps_its_one_sentence_through_a_worker(flat: Path) -> None:
    data = module(flat, num_workers=1)
    broken = flat / "red" / "0.jpg"
    draw(broken, (1, 2, 3), seed=0)
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(UnreadableImage) as caught:
        epoch_of(data, 0)
    assert str(caught.value).startswith(f"{broken} cannot be read")
    assert "\n" not in str(caught.value)
