"""Options of a training that are harmless alone are harmless together."""

import functools
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, config_of, draw
from omegaconf import DictConfig, OmegaConf
from tiny_classifier import tiny_backbone

from headstart.backbones.backbone import Backbone
from headstart.config.train import check_train
from headstart.data.manifest import Manifest
from headstart.data.prepare import prepare_data
from headstart.errors import HeadstartError
from headstart.training.callbacks.ema import EMA
from headstart.training.fit import Fitted, fit

# Two large classes and a small one, which are easily told apart.
COUNTS = {"blue": ((40, 60, 200), 40), "green": ((30, 160, 60), 40), "red": ((200, 50, 40), 3)}
EPOCHS = 6
BASE = (*SMALL, f"trainer.max_epochs={EPOCHS}", "model.lr=0.05", "logger=none")
GRADUAL = "finetune=gradual finetune.epochs=[2] finetune.lr_factors=[0.1]"
# Each is a way to train, with which the validation accuracy is 1.
OPTIONS = (
    *("data.balance=loss", "data.balance=sampler"),
    *("model.label_smoothing=0.3", "model.dropout=0.2", "model.weight_decay=0.01"),
    *("model.schedule=cosine", "model.schedule=onecycle model.warmup=0.3", "model.warmup=0.3"),
    *("model.head=linear model.lr=0.3", "model.head=ridge", "model.head=knn", "model.head=mean"),
    *("callbacks=ema", "callbacks.early_stopping.patience=2", "callbacks.checkpoint.monitor=valid/acc"),
    *("finetune=full model.lr=0.02", GRADUAL, f"{GRADUAL} finetune.mixup=0.2", f"{GRADUAL} finetune.cutmix=0.2"),
    *("augment=none", "augment=light", "features.cache=false", "features.views=2", "data.batch_size=5"),
    *("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1", "trainer.precision=bf16-mixed"),
    *("trainer.limit_train_batches=0.7", "trainer.check_val_every_n_epoch=2", "trainer.max_steps=45"),
    *("features.precision=bf16", "trainer.deterministic=true"),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs") / "images"
    for number, (name, (colour, count)) in enumerate(COUNTS.items()):
        for split, of_split in (("train", count), ("valid", 8)):
            for index in range(of_split):
                seed = 1000 * number + index + 500 * (split == "valid")
                draw(root / split / name / f"{index}.png", colour, seed, size=(24, 24))
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For a network of a few channels, threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(images: Path, folder: Path, *options: str, backbone: Backbone | None = None) -> Fitted:
    config = base_config(images)
    for changed in ({"run_dir": str(folder)}, *map(changes, options)):
        for key, value in changed.items():
            OmegaConf.update(config, key, value, force_add=True)
    return fit(check_train(config), prepared(images), backbone or tiny_backbone(), [])


def base_config(images: Path) -> DictConfig:
    return config_of(*BASE, f"data.root={images}", f"features.dir={images.parent / 'features'}")


@functools.cache
def prepared(images: Path) -> Manifest:
    """No option changes which images there are."""
    data = check_train(base_config(images)).data
    return prepare_data(data, data.seed).manifest


@functools.cache
def changes(option: str) -> dict[str, Any]:
    """What an option, which may choose files of conf/, changes: to compose each pair anew would take twice as long."""
    configs = (config_of(*BASE, "data.root=x", *more) for more in ((), option.split()))
    before, after = (dict(leaves(OmegaConf.to_container(config, resolve=False))) for config in configs)
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in values:
        if isinstance(values[key], dict):
            yield from leaves(values[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", values[key]


def keys(option: str) -> set[str]:
    return {assignment.partition("=")[0] for assignment in option.split()}


def is_refused(pair: frozenset[str]) -> bool:
    """Whether one sentence says that they contradict each other."""
    is_closed_form = any(option in ("model.head=ridge", "model.head=knn", "model.head=mean") for option in pair)
    return is_closed_form and any(option.startswith(("data.balance", "finetune", "callbacks=ema")) for option in pair)


def covering(pairs: set[frozenset[str]]) -> Iterator[tuple[str, ...]]:
    """Yields groups of TOGETHER options, and a few smaller ones, of which every pair is in `pairs`, until all were."""
    left = set(pairs)
    while left:
        group = sorted(min(left, key=sorted))
        for _ in range(TOGETHER - len(group)):
            gains = {
                option: sum(frozenset((option, other)) in left for other in group)
                for option in OPTIONS
                if all(frozenset((option, other)) in pairs for other in group)
            }
            if max(gains.values(), default=0):
                group.append(max(gains, key=lambda option: gains[option]))
        left -= {frozenset(pair) for pair in combinations(group, 2)}
        yield tuple(group)


# Options of one training: to train with each pair alone would take minutes.
TOGETHER = 12
PAIRS = {frozenset(pair) for pair in combinations(OPTIONS, 2) if not keys(pair[0]) & keys(pair[1])}
REFUSED = {pair for pair in PAIRS if is_refused(pair)}
GROUPS = list(covering(PAIRS - REFUSED))


def test_groups__have_every_pair() -> None:
    assert {frozenset(pair) for group in GROUPS for pair in combinations(group, 2)} == PAIRS - REFUSED


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_options__are_as_good_together_as_each_alone(images: Path, tmp_path: Path, group: tuple[str, ...]) -> None:
    assert trained(images, tmp_path, *group).metrics()["valid/acc"] > 0.95


@pytest.mark.slow
def test_options__that_contradict_each_other(images: Path, tmp_path: Path) -> None:
    for pair in REFUSED:
        with pytest.raises(HeadstartError, match=r"model.head=(ridge|knn|mean)"):
            trained(images, tmp_path, *pair)


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "noise"), [(1, 0.2), (2, 0.05)])
def test_ema__on_few_steps_is_as_good_as_without(images: Path, tmp_path: Path, epochs: int, noise: float) -> None:
    # With a constant decay of 0.99, the average of eleven steps per epoch is still made of the initial weights.
    option = f"trainer.max_epochs={epochs}"
    without, ema = (
        trained(images, tmp_path / name, option, f"callbacks={name}").metrics() for name in ("default", "ema")
    )
    assert ema["valid/loss"] < without["valid/loss"] + noise


@pytest.mark.parametrize(("steps", "decay"), [(1, 2 / 11), (9, 10 / 19), (890, 0.99), (10_000, 0.99)])
def test_ema__looks_back_over_a_tenth_of_the_steps_so_far_at_most(steps: int, decay: float) -> None:
    averaged, current = torch.tensor([1.0, 5.0]), torch.tensor([0.0, 5.0])
    found = EMA(0.99)._kwargs["avg_fn"](averaged, current, torch.tensor(steps))
    assert found.tolist() == pytest.approx([decay, 5.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    ["model.head=mlp", "model.head=ridge", "model.head=knn", "model.head=mean", "trainer.limit_val_batches=1"],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite__are_named_whatever_the_head(
    images: Path, tmp_path: Path, option: str, value: float
) -> None:
    backbone = tiny_backbone()
    layer = backbone.network.get_submodule("layers.4")
    assert isinstance(layer, torch.nn.Conv2d)
    assert layer.bias is not None
    layer.bias[0] = value
    with pytest.raises(
        HeadstartError, match=r"images are infinite or NaN, whatever the head: .*\(tiny, weights random\)"
    ):
        trained(images, tmp_path, option, "features.cache=false", backbone=backbone)


@pytest.mark.parametrize("options", [("model.lr=1e30",), ("model.lr=1e30", "finetune=full")])
def test_loss_that_is_not_finite__is_blamed_on_the_learning_rate(
    images: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with pytest.raises(HeadstartError, match=r"try a smaller model\.lr"):
        trained(images, tmp_path, *options)
