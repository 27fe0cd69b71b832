"""data.group=near_duplicates: what the features show to be almost the same image stays in one split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import SMALL, Script, settings_of
from faulty import photo
from PIL import Image

from headstart import pipeline
from headstart.auditing.report import alike_units, find_from_features, preparation
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest, Split
from headstart.data.prepare import PreparedData
from headstart.datasets import open_data
from headstart.errors import HeadstartError
from headstart.training import fit as training
from headstart.training.fit import Fitted

CLASSES = ("ant", "bee", "cat")
GROUP = "data.group=near_duplicates"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 16 images each, and crops of four of them, which are no copies."""
    folder = tmp_path_factory.mktemp("grouping") / "images"
    for place, name in enumerate(CLASSES):
        for number in range(16):
            photo(folder / name / f"{number:02}.jpg", 100 * place + number)
        for number in range(4):
            with Image.open(folder / name / f"{number:02}.jpg") as image:
                image.crop((2, 2, 58, 46)).save(folder / name / f"{number:02}-crop.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def weights(root: Path) -> Path:
    """Random ones, but good enough to compare images."""
    path = root.parent / "weights.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(torchvision.models.mobilenet_v3_small().state_dict(), path)
    return path


@pytest.fixture
def able(root: Path, weights: Path, tmp_path: Path) -> tuple[str, ...]:
    """A backbone with a weights file, and a store of its own."""
    backbone = ("model.arch=mobilenet_v3_small", f"model.weights={weights}", "features.precision=32")
    return (*SMALL, f"data.root={root}", *backbone, f"features.dir={tmp_path / 'features'}")


def opened(settings: TrainSettings) -> PreparedData:
    return open_data(settings.data, preparation(settings))


def splits_of_pairs(data: PreparedData) -> list[set[str]]:
    split_of = {sample.path: sample.split for sample in data.scan.samples}
    return [{split_of[path], split_of[path.replace("-crop", "")]} for path in split_of if "-crop" in path]


def stored(able: tuple[str, ...]) -> set[Path]:
    return {*Path(able[-1].partition("=")[2]).rglob("*.npy")}


@pytest.mark.slow
def test_near_duplicates__are_in_one_split_for_every_seed_and_encoded_once(able: tuple[str, ...]) -> None:
    alone = [splits for seed in range(5) for splits in splits_of_pairs(opened(settings_of(*able, f"seed={seed}")))]
    assert any(len(splits) == 2 for splits in alone)
    first = opened(settings_of(*able, GROUP))
    (file,) = stored(able)
    assert len(np.load(file)) == 60
    for seed in range(8):
        data = opened(settings_of(*able, GROUP, f"seed={seed}"))
        assert all(len(splits) == 1 for splits in splits_of_pairs(data))
        assert [*data.manifest.class_counts] == [14] * 3
        assert (
            data.manifest.splits["train"].stored[0].fingerprint == first.manifest.splits["test"].stored[0].fingerprint
        )
    assert stored(able) == {file}


@pytest.mark.slow
def test_near_duplicates__depend_on_each_other(able: tuple[str, ...]) -> None:
    manifest = opened(settings_of(*able, GROUP)).manifest
    units = {
        path: unit
        for name, split in manifest.splits.items()
        for path, unit in zip(split.paths, manifest.units[name].tolist(), strict=True)
    }
    assert all(units[path] == units[path.replace("-crop", "")] for path in units)
    assert len({*units.values()}) == 48


@pytest.mark.parametrize("head", ["knn", "mlp"])
def test_near_duplicates__count_as_one_in_heads_and_intervals_without_groups(
    head: str, able: tuple[str, ...], script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[tuple[Manifest, Fitted]] = []

    def fit(settings: TrainSettings, manifest: Manifest, *others: Any) -> Fitted:
        fits.append((manifest, training.fit(settings, manifest, *others)))
        return fits[-1][1]

    monkeypatch.setattr(pipeline, "fit", fit)
    own = (f"model.head={head}", "data.near_duplicates=true", "trainer.max_epochs=2")
    done = script("train.py", *able, *own, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    ((manifest, fitted),) = fits

    def is_one_unit(manifest: Manifest, split: str) -> list[bool]:
        units = dict(zip(manifest.splits[split].paths, manifest.units[split].tolist(), strict=True))
        pairs = [(path, path.replace("-crop", "")) for path in units if "-crop" in path]
        return [units[first] == units[second] for first, second in pairs if second in units]

    # What a head is fitted with, where it leaves out images; and what intervals are computed with.
    assert is_one_unit(manifest, "train")
    assert all(is_one_unit(manifest, "train")) == (head == "knn")
    assert all(is_one_unit(fitted.source.manifest, "train"))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [("data.folds=4", "data.fold=2"), ("data.split.train=11", "data.split.valid=4")])
def test_near_duplicates__in_folds_and_by_count(able: tuple[str, ...], rule: tuple[str, ...]) -> None:
    data = opened(settings_of(*able, GROUP, *rule))
    assert all(len(splits) == 1 for splits in splits_of_pairs(data))
    assert len(stored(able)) == 1


@pytest.mark.slow
def test_near_duplicates__whatever_is_stored(able: tuple[str, ...], tmp_path: Path) -> None:
    first = opened(settings_of(*able, GROUP)).manifest
    again = opened(settings_of(*able, GROUP, f"features.dir={tmp_path}")).manifest
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    "setting",
    ["model.weights=null", "model.weights=bundled model.arch=headstart", "finetune=gradual", "features.cache=false"],
)
def test_error__needs_features_of_photographs(able: tuple[str, ...], setting: str) -> None:
    with pytest.raises(HeadstartError, match=r"^data\.group=near_duplicates needs features\.cache=true, finetune=none"):
        settings_of(*able, GROUP, *setting.split())


def test_error__compared_backbones(able: tuple[str, ...]) -> None:
    with pytest.raises(HeadstartError, match=r"^data\.group=near_duplicates is invalid with task=compare"):
        settings_of(*able, GROUP, "task=compare", "model.archs=[resnet18]")


def manifest_of(count: int) -> Manifest:
    paths = tuple(f"a/{number}.jpg" for number in range(count))
    splits = {"train": Split(Path("root"), paths, (0,) * count, paths)}
    return Manifest(Path("root"), ("a",), splits, {}, (), (), {}, ())


def test_alike_units__leave_nothing_to_find_across_splits() -> None:
    draw = np.random.default_rng(0)
    features = np.repeat(draw.normal(size=(40, 32)), 4, axis=0) + draw.normal(0, 0.2, (160, 32))
    units = alike_units(manifest_of(160), {"train": features})["train"]
    assert len(np.unique(units)) == 40
    parts = {"train": units % 2 == 0, "test": units % 2 == 1}
    splits = {
        name: Split(
            Path("root"), tuple(map(str, np.flatnonzero(own))), (0,) * own.sum(), tuple(map(str, np.flatnonzero(own)))
        )
        for name, own in parts.items()
    }
    found = find_from_features(splits, {name: features[own] for name, own in parts.items()})
    assert {finding.kind for finding in found if finding.kind != "outlier"} == {"near duplicates within a split"}


@pytest.mark.slow
def test_large_group__is_said_and_leaves_no_split_empty(
    able: tuple[str, ...], tmp_path: Path, messages: list[str]
) -> None:
    for place, name in enumerate(CLASSES):
        for number in range(16):
            photo(tmp_path / name / f"{number:02}.jpg", 100 * place + number)
    with Image.open(tmp_path / "bee" / "00.jpg") as image:
        for number in range(12):
            box = (number % 4, number // 4, 60 - number // 4, 48 - number % 4)
            image.crop(box).save(tmp_path / "bee" / f"{number:02}.jpg", quality=90)
    data = opened(settings_of(*able, GROUP, f"data.root={tmp_path}"))
    (said,) = [message for message in messages if message.startswith("data.group=near_duplicates: ")]
    assert "12 of the 16 images of class 'bee' look alike" in said
    of_bee = {sample.split for sample in data.scan.samples if sample.class_name == "bee"}
    assert of_bee == {"train", "valid", "test"}
    assert len({s.split for s in data.scan.samples if s.class_name == "bee" and s.path < "bee/12"}) == 1


def test_run__is_told_the_setting_and_then_has_nothing_to_warn_of(
    able: tuple[str, ...], script: Script, tmp_path: Path
) -> None:
    arguments = (*able, "data.seed=1", f"features.dir={tmp_path / 'features'}")
    before = script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'before'}")
    assert "near duplicates across splits" in before.err
    assert before.err.count(f"; {GROUP} keeps such pairs in one split") == 1
    after = script("train.py", *arguments, GROUP, f"hydra.run.dir={tmp_path / 'after'}")
    assert (after.status, after.err) == (0, "")
    audit = json.loads((tmp_path / "after" / "audit.json").read_text())
    assert audit["near_duplicates"] == "compared"
    assert {finding["kind"] for finding in audit["findings"]} <= {"near duplicates within a split", "outlier"}
    again = script("train.py", "task=test", f"ckpt_path={tmp_path / 'after'}", f"hydra.run.dir={tmp_path / 'again'}")
    assert (again.status, again.err) == (0, "")
    first, second = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("after", "again"))
    assert first["test/acc"] == second["test/acc"]
