import json
from pathlib import Path

import pytest
import torch
from conftest import draw, manifest_of
from pytorch_lightning import Trainer

from headstart.data.module import PictureDataModule
from headstart.data.transforms import Preprocessing
from headstart.errors import UnreadableImage
from headstart.features.encoder import Encoder
from headstart.features.store import FeatureStore
from headstart.model.weights import load_backbone
from headstart.settings import SplitSettings

SIZES = Preprocessing(resize_size=40, image_size=32)


def module(
    root: Path,
    *,
    num_workers: int = 0,
    batch_size: int = 4,
    store: FeatureStore | None = None,
    views: int | None = None,
) -> PictureDataModule:
    backbone, source = load_backbone("shufflenet_v2_x0_5", None, seed=0, preprocessing=SIZES)
    return PictureDataModule(
        manifest_of(root, SplitSettings(train=6, valid=3)),
        preprocessing=SIZES,
        batch_size=batch_size,
        num_workers=num_workers,
        seed=0,
        views=views,
        frozen_epochs=None,
        balanced=False,
        encoder=Encoder(backbone, precision="32", compile=False),
        store=store,
        backbone={"arch": source.arch, "weights_sha256": source.sha256, "cut": source.cut},
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


@pytest.mark.parametrize("workers", [0, 2])
def test_features__are_those_of_the_pictures_of_the_epoch(flat: Path, tmp_path: Path, workers: int) -> None:
    pictures, features = module(flat), module(flat, store=FeatureStore(tmp_path), num_workers=workers)
    for epoch in (0, 3):
        pairs = list(zip(epoch_of(pictures, epoch), epoch_of(features, epoch), strict=True))
        for (images, labels), (found, found_labels) in pairs:
            assert torch.allclose(found, pictures._encoder(images), atol=1e-6)
            assert torch.equal(labels, found_labels)
    views = sorted(path.name for path in tmp_path.glob("*train*/view-*"))
    assert views == ["view-0000.npy", "view-0003.npy"], "no view is made that nobody asked for"


def test_features__few_views_come_again(flat: Path, tmp_path: Path) -> None:
    data = module(flat, store=FeatureStore(tmp_path), views=2)
    for epoch in range(5):
        epoch_of(data, epoch)
    assert len(list(tmp_path.glob("*train*/view-*"))) == 2


def test_key__changes_with_all_that_the_features_depend_on(flat: Path, tmp_path: Path) -> None:
    def keys(data: PictureDataModule) -> dict[str, str]:
        return {name: cached.key.folder for name, cached in data._cached.items()}

    store = FeatureStore(tmp_path)
    before = keys(module(flat, store=store))
    assert keys(module(flat, store=store, batch_size=9, num_workers=2)) == before
    assert len(set(before.values())) == 3
    other = module(flat, store=store)
    other._cached["train"]._encoder._precision = "bf16"
    assert other._cached["train"].key.folder != before["train"]
    # A picture of the train split changed without a trace in its size: the other splits' features stay good.
    picture = flat / "red" / "0.jpg"
    content = bytearray(picture.read_bytes())
    content[-30] ^= 1
    picture.write_bytes(bytes(content))
    changed = keys(module(flat, store=store))
    assert [name for name in before if before[name] != changed[name]] == ["train"]


def test_key__compilation_that_fails_is_not_taken_for_compiled(flat: Path, tmp_path: Path) -> None:
    def fail(images: torch.Tensor) -> torch.Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    data = module(flat, store=FeatureStore(tmp_path))
    data._encoder._compile = True
    backbone = data._encoder.backbone
    backbone.compile = lambda **options: setattr(backbone, "_compiled_call_impl", fail)
    epoch_of(data, 0)
    (file,) = tmp_path.glob("*train*/key.json")
    assert json.loads(file.read_text())["compiled"] is False


def test_key__a_whole_run_and_its_parts_use_the_same_code(flat: Path, tmp_path: Path) -> None:
    """Compiled and eager code round differently: what was encoded before must not decide between them."""
    data = module(flat, store=FeatureStore(tmp_path))
    data._encoder._compile = "auto"
    data.trainer = Trainer(max_epochs=100, logger=False, enable_checkpointing=False, accelerator="cpu")
    before = data._pictures_to_encode()
    data._cached["valid"].view(0)
    assert data._pictures_to_encode() == before == 18 * 100 + 9 + 9
    data.val_dataloader()
    assert data._encoder.compiles


def test_unreadable__keeps_its_one_sentence_through_a_worker(flat: Path) -> None:
    data = module(flat, num_workers=1)
    broken = flat / "red" / "0.jpg"
    draw(broken, (1, 2, 3), seed=0)
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(UnreadableImage) as caught:
        epoch_of(data, 0)
    assert str(caught.value).startswith(f"{broken} cannot be read")
    assert "\n" not in str(caught.value)
