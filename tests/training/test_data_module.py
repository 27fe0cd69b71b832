from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, draw, manifest_of, settings_of
from pytorch_lightning import Trainer
from torch import Tensor

from headstart.backbones.backbone import load_backbone
from headstart.data.dataset import IGNORED, EvalTransform
from headstart.data.images import read_rgb
from headstart.errors import HeadstartError
from headstart.features.compiled import CompilationFailed
from headstart.features.source import FEW_VIEWS
from headstart.model.classifier import Classifier
from headstart.model.recipe import recipe_of
from headstart.training.callbacks.history import Clock, History, history_of
from headstart.training.data_module import ImageDataModule

Batches = list[tuple[Tensor, Tensor]]


def module(root: Path, *overrides: str, store: Path | None = None) -> ImageDataModule:
    """The data module of an untrained classifier; with a `store`, it gives features."""
    cache = ("features.cache=false",) if store is None else (f"features.dir={store}",)
    given = {override.partition("=")[0] for override in overrides}
    small = [default for default in SMALL if default.partition("=")[0] not in given]
    rule = (f"data.root={root}", "data.split.train=6", "data.split.valid=3", "features.precision=32")
    settings = settings_of(*small, *rule, *cache, *overrides)
    manifest = manifest_of(root, settings.data.split)
    backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
    classifier = Classifier(backbone, recipe_of(settings, backbone, manifest), settings.features)
    data = ImageDataModule(settings, classifier.feature_source(settings, manifest))
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    data.trainer = Trainer(max_epochs=100, callbacks=[History(Path("history.csv"), Clock(cached=True))], **options)
    return data


def set_epoch(data: ImageDataModule, epoch: int) -> None:
    """As if the Trainer had completed `epoch` epochs."""
    history_of(data.trainer)[:] = [{"epoch": number} for number in range(1, epoch + 1)]


def epoch_of(data: ImageDataModule, epoch: int) -> Batches:
    """The training batches of an epoch."""
    set_epoch(data, epoch)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def joined(batches: Batches) -> tuple[Tensor, Tensor]:
    x, labels = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(labels)


@contextmanager
def counted_forwards(data: ImageDataModule) -> Iterator[list[int]]:
    """The sizes of the batches that the backbone runs on in the block."""
    sizes: list[int] = []
    hook = data.source._encoder.backbone.network.register_forward_hook(
        lambda _, inputs, __: sizes.append(len(inputs[0]))
    )
    yield sizes
    hook.remove()


@pytest.mark.slow
def test_batches__same_with_and_without_workers(flat: Path) -> None:
    plain, parallel = (epoch_of(module(flat, "data.batch_size=4", f"data.num_workers={n}"), 2) for n in (0, 2))
    assert len(plain) == len(parallel) == 5
    for (images, labels), (others, other_labels) in zip(plain, parallel, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
    assert plain[0][0].dtype == torch.uint8


@pytest.mark.slow
def test_batches__same_images_for_every_batch_size(flat: Path) -> None:
    small, large = (joined(epoch_of(module(flat, f"data.batch_size={n}"), 1)) for n in (4, 7))
    assert torch.equal(small[0], large[0])
    assert torch.equal(small[1], large[1])


def test_views__differ_between_epochs_of_train_but_not_of_valid(flat: Path) -> None:
    data = module(flat)
    first, second = (joined(epoch_of(data, epoch))[0] for epoch in (0, 1))
    assert not torch.equal(first, second)
    set_epoch(data, 0)
    valid = joined(list(data.val_dataloader()))[0]
    set_epoch(data, 1)
    assert torch.equal(joined(list(data.val_dataloader()))[0], valid)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("cache", [True, False])
def test_test_loader__each_sample_once_in_order(flat: Path, tmp_path: Path, batch_size: int, cache: bool) -> None:
    data = module(flat, f"data.batch_size={batch_size}", store=tmp_path / "features" if cache else None)
    split, transform = data.source.manifest.splits["test"], EvalTransform(data.source._encoder.backbone.preprocessing)
    images = torch.stack([transform(read_rgb(flat / path), 0, 0) for path in split.paths])
    batches = list(data.source.eval_loader("test"))
    assert [len(labels) for _, labels in batches[:-1]] == [batch_size] * (len(batches) - 1)
    x, labels = joined(batches)
    assert labels.tolist() == list(split.labels)
    if cache:
        assert torch.allclose(x, data.source._encoder(images), atol=1e-6)
    else:
        assert torch.equal(x, images)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [True, False])
def test_loaders__share_of_the_second_of_two_processes(
    flat: Path, tmp_path: Path, cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(flat, store=tmp_path / "features" if cache else None)
    if cache:
        # What they encode together is not what this test is about.
        data.source.unaugmented()
    monkeypatch.setattr("headstart.features.source.rank", lambda: 1)
    monkeypatch.setattr("headstart.features.source.world_size", lambda: 2)
    for split, loader in (("test", data.source.eval_loader("test")), ("valid", data.val_dataloader())):
        assert joined(list(loader))[1].tolist() == [*data.source.manifest.splits[split].labels[1::2], IGNORED]


@pytest.mark.slow
def test_features__are_encoded_when_the_loader_is_created(flat: Path, tmp_path: Path) -> None:
    data = module(flat, store=tmp_path)
    with counted_forwards(data) as sizes:
        loaders = [data.train_dataloader(), data.val_dataloader(), data.source.eval_loader("test")]
        assert sum(sizes) == 18 + 9 + 9
        sizes.clear()
        batches = [list(loader) for loader in loaders]
        assert sizes == []
    for x, labels in (batch for of_split in batches for batch in of_split):
        assert type(x) is type(labels) is Tensor
        assert x.shape == (len(labels), data.source._encoder.embedding_dim)
        assert (x.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert not x.requires_grad


@pytest.mark.slow
def test_features__each_view_is_encoded_once(flat: Path, tmp_path: Path) -> None:
    data = module(flat, store=tmp_path)
    with counted_forwards(data) as sizes:
        first = epoch_of(data, 0)
        epoch_of(data, 1)
        assert sum(sizes) == 2 * 18
        again = epoch_of(data, 0)
        assert sum(sizes) == 2 * 18
    assert torch.equal(joined(again)[0], joined(first)[0])
    other = module(flat, store=tmp_path)
    with counted_forwards(other) as sizes:
        assert torch.equal(joined(epoch_of(other, 1))[0], joined(epoch_of(data, 1))[0])
        assert sizes == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_features__are_those_of_the_epochs_images(flat: Path, tmp_path: Path, workers: int) -> None:
    options = "features.views=null", f"data.num_workers={workers}"
    images, features = module(flat, *options), module(flat, *options, store=tmp_path)
    for epoch in (0, 3):
        for (x, labels), (found, found_labels) in zip(epoch_of(images, epoch), epoch_of(features, epoch), strict=True):
            assert torch.allclose(found, images.source._encoder(x), atol=1e-6)
            assert torch.equal(labels, found_labels)
    views = sorted(path.name for path in tmp_path.glob("*train*/view-*.npy"))
    assert views == ["view-0000.npy", "view-0003.npy"], "no view is encoded that was not asked for"


@pytest.mark.slow
def test_features__a_limited_number_of_views_repeats(flat: Path, tmp_path: Path) -> None:
    data = module(flat, "features.views=2", store=tmp_path)
    epochs = [joined(epoch_of(data, epoch))[0] for epoch in range(4)]
    assert len(list(tmp_path.glob("*train*/view-*.npy"))) == 2
    sums = [epoch.sum().item() for epoch in epochs]
    assert sums[0] == pytest.approx(sums[2])
    assert sums[1] == pytest.approx(sums[3])
    assert sums[0] != pytest.approx(sums[1])


@pytest.mark.slow
def test_auto__few_views_take_turns_and_the_first_is_not_augmented(flat: Path, tmp_path: Path) -> None:
    images, data = module(flat), module(flat, store=tmp_path)
    epochs = [joined(epoch_of(data, epoch))[0] for epoch in range(6)]
    assert epochs[0].shape == (18, data.source._encoder.embedding_dim)
    assert len({round(epoch.double().sum().item(), 9) for epoch in epochs}) == FEW_VIEWS < 6
    for epoch in (0, 1, 4):
        pixels = joined(epoch_of(images, epoch))[0]
        assert torch.allclose(epochs[epoch], images.source._encoder(pixels), atol=1e-6)
    order = data.source.train_order()
    plain = torch.tensor(data.source.unaugmented()["train"])
    assert torch.equal(epochs[0], plain[order])
    # Nothing is encoded twice, and the augmented views are those of features.views=null.
    epoch_of(module(flat, "features.views=null", store=tmp_path), 1)
    assert len(list(tmp_path.glob("*train*/view-*.npy"))) == FEW_VIEWS


@pytest.mark.slow
def test_auto__every_epoch_has_a_view_of_its_own_once_the_backbone_is_trained(flat: Path) -> None:
    data = module(flat, "finetune=gradual", "finetune.epochs=[6,7]")
    assert [data.source.view_of(epoch) for epoch in range(9)] == [0, 1, 0, 1, 0, 1, 6, 7, 8]
    assert data.source.views_of(9) == FEW_VIEWS
    epoch_of(data, 8)
    assert {view for view, _ in data.train_dataloader().sampler} == {8}


@pytest.mark.slow
def test_features__only_as_long_as_the_backbone_is_frozen(flat: Path, tmp_path: Path) -> None:
    data = module(flat, "finetune=gradual", "finetune.epochs=[2,3]", store=tmp_path)
    for epoch, dtype in ((0, torch.float32), (1, torch.float32), (2, torch.uint8)):
        assert joined(epoch_of(data, epoch))[0].dtype == dtype
        assert joined(list(data.val_dataloader()))[0].dtype == dtype
        assert joined(list(data.source.eval_loader("test")))[0].dtype == torch.uint8


@pytest.mark.slow
def test_unaugmented__every_split_in_order(flat: Path, tmp_path: Path) -> None:
    data = module(flat, store=tmp_path)
    transform, found = EvalTransform(data.source._encoder.backbone.preprocessing), data.source.unaugmented()
    assert list(found) == ["train", "valid", "test"]
    for name, split in data.source.manifest.splits.items():
        images = torch.stack([transform(read_rgb(flat / path), 0, 0) for path in split.paths])
        assert torch.allclose(torch.tensor(found[name]), data.source._encoder(images), atol=1e-6)


def test_unaugmented__need_a_store(flat: Path) -> None:
    with pytest.raises(ValueError, match="need a store"):
        module(flat).source.unaugmented()


def keys(data: ImageDataModule) -> dict[str, str]:
    """The folder in the store of each split."""
    return {name: features.pools[0].key(1).folder for name, features in data.source._features.items()}


@pytest.mark.slow
def test_key__changes_with_everything_the_features_depend_on(flat: Path, tmp_path: Path) -> None:
    before = keys(module(flat, store=tmp_path))
    assert len(set(before.values())) == 3
    assert keys(module(flat, "data.batch_size=9", "data.num_workers=2", "model.lr=1", store=tmp_path)) == before
    for override in (
        "features.precision=bf16",
        "model.arch=shufflenet_v2_x1_0",
        "data.interpolation=bicubic",
        "data.mean=[0.5,0.5,0.5]",
        "data.resize_size=36",
    ):
        changed = keys(module(flat, override, store=tmp_path))
        assert not set(changed.values()) & set(before.values()), override
    # Another seed changes the augmentation of train, and the random weights.
    assert not set(keys(module(flat, "seed=1", store=tmp_path)).values()) & set(before.values())


@pytest.mark.slow
def test_key__changes_for_the_split_of_a_changed_image(flat: Path, tmp_path: Path) -> None:
    before = keys(module(flat, store=tmp_path))
    image = flat / "red" / "0.jpg"
    content = bytearray(image.read_bytes())
    content[-30] ^= 1
    image.write_bytes(bytes(content))
    after = keys(module(flat, store=tmp_path))
    assert [name for name in before if before[name] != after[name]] == ["train"]


@pytest.mark.slow
def test_compilation__that_fails_leaves_features_usable(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CompilationFailed("no compiler")

    data = module(flat, "features.compile=true", store=tmp_path / "compiled")
    monkeypatch.setattr("headstart.features.encoder.compiled_program", fail)
    eager = module(flat, store=tmp_path / "eager")
    for (found, _), (expected, _) in zip(epoch_of(data, 0), epoch_of(eager, 0), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epochs", "views", "count"),
    [(1, "null", 20), (1000, "null", 20), (-1, "auto", FEW_VIEWS), (1, "auto", FEW_VIEWS), (1000, "3", 3)],
)
def test_compilation__decided_by_the_data_and_not_by_the_length_of_a_run(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, views: str, count: int
) -> None:
    """Compiled and eager code round differently: neither may depend on `max_epochs` or on what is stored."""
    monkeypatch.setattr("headstart.features.encoder.REPAYS_COMPILATION", 18 * count + 9 + 9)
    monkeypatch.setattr("headstart.features.encoder.USUAL_SIZE", 32)
    monkeypatch.setattr("headstart.features.encoder.measured_speed", lambda key: 2.0)
    settings = ("features.compile=auto", f"trainer.max_epochs={epochs}", f"features.views={views}")
    monkeypatch.setattr("headstart.features.encoder.compiled_program", lambda network, *_: network.forward)
    data = module(flat, *settings, store=tmp_path)
    data.val_dataloader()
    assert data.source._encoder.compiles
    again = module(flat, *settings, store=tmp_path)
    again.val_dataloader()
    assert again.source._encoder.compiles
    monkeypatch.setattr("headstart.features.encoder.REPAYS_COMPILATION", 18 * count + 9 + 9 + 1)
    fewer = module(flat, *settings, store=tmp_path)
    fewer.val_dataloader()
    assert not fewer.source._encoder.compiles
    assert keys(again) == keys(module(flat, *settings[2:], store=tmp_path)), "served whether compiled or not"


@pytest.mark.slow
def test_unreadable__one_sentence_from_a_worker(flat: Path) -> None:
    data = module(flat, "data.num_workers=1")
    broken = flat / "red" / "0.jpg"
    draw(broken, (1, 2, 3), seed=0)
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(HeadstartError) as caught:
        epoch_of(data, 0)
    assert str(caught.value).startswith(f"{broken} was changed after the images were checked")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_augment__none_has_one_view_that_is_encoded_once(flat: Path, tmp_path: Path) -> None:
    data = module(flat, "augment=none", store=tmp_path)
    with counted_forwards(data) as sizes:
        epochs = [sorted(x.tolist() for x in joined(epoch_of(data, epoch))[0]) for epoch in range(3)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert sum(sizes) == 18
    assert data.source.augmentation is None
    unaugmented = data.source.unaugmented()["train"]
    assert epochs[0] == sorted(torch.from_numpy(unaugmented.copy()).tolist())


@pytest.mark.slow
def test_augment__own_transforms_make_the_views_of_images_and_features(flat: Path) -> None:
    flips = "augment.transforms=[{_target_: torchvision.transforms.v2.RandomCrop, size: image_size}]"
    images = [joined(epoch_of(module(flat, flips, "data.num_workers=0"), epoch))[0] for epoch in (0, 1)]
    assert images[0].shape == (18, 3, 32, 32)
    assert not torch.equal(images[0].sort(0).values, images[1].sort(0).values)
