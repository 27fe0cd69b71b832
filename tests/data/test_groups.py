from pathlib import Path

import numpy as np
import pytest
from conftest import draw_classes, settings_of

from headstart.config.data import SplitSettings
from headstart.data.prepare import inspect_data, prepare_data
from headstart.data.scan import Scan, scan_folder
from headstart.data.splits import groups_by_path, share_out, units_of
from headstart.errors import HeadstartError

FRACTIONS = SplitSettings(0.7, 0.15)


def test_groups_by_path__first_group_or_match() -> None:
    paths = ["ant/p1_1.jpg", "ant/p1_2.jpg", "bee/p2_1.jpg", "bee/other.jpg"]
    expected = {"ant/p1_1.jpg": "p1", "ant/p1_2.jpg": "p1", "bee/p2_1.jpg": "p2"}
    assert groups_by_path(r"p\d", paths) == expected
    assert groups_by_path(r"/(p\d)_", paths) == expected


def test_groups_by_path__error_if_there_are_none() -> None:
    with pytest.raises(HeadstartError, match=r"^data\.group=q\\d is found in no path, such as ant/1\.jpg$"):
        groups_by_path(r"q\d", ["ant/1.jpg"])


def test_units_of__groups_that_share_a_copy_stay_together() -> None:
    groups = {"a": "1", "b": "1", "c": "2", "d": "3"}
    units = units_of(["a", "b", "c", "d", "e", "f"], groups, ["A", "B", "B", "D", "E", "E"])
    assert units[0] == units[1] == units[2]
    assert units[4] == units[5]
    assert len(set(units.tolist())) == 3


def random_groups(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The labels and the groups, of different sizes, of images of four classes."""
    draw = np.random.default_rng(seed)
    units = np.repeat(np.arange(count), draw.integers(1, 9, count))
    return draw.integers(0, 4, len(units)), units


@pytest.mark.parametrize("shares", [(0.7, 0.15, 0.15), (0.2,) * 5])
def test_share_out__groups_are_whole_and_classes_even(shares: tuple[float, ...]) -> None:
    labels, units = random_groups(200)
    parts = share_out(labels, units, shares, seed=0)
    assert all(len(set(parts[units == unit].tolist())) == 1 for unit in np.unique(units))
    for label in range(4):
        found = np.bincount(parts[labels == label], minlength=len(shares)) / (labels == label).sum()
        assert np.abs(found - shares).max() < 0.03


def test_share_out__depends_on_the_seed_alone() -> None:
    labels, units = random_groups(60)
    first = share_out(labels, units, (0.8, 0.2), seed=0)
    assert (first == share_out(labels, units, (0.8, 0.2), seed=0)).all()
    assert (first != share_out(labels, units, (0.8, 0.2), seed=1)).any()


def test_share_out__one_group_of_each_class_for_each_part_if_there_are_enough() -> None:
    labels = np.repeat([0, 1], 12)
    units = np.repeat(np.arange(6), 4)
    parts = share_out(labels, units, (0.9, 0.05, 0.05), seed=0)
    assert all(sorted(set(parts[labels == label].tolist())) == [0, 1, 2] for label in (0, 1))


def splits_of(scan: Scan) -> dict[str, set[str]]:
    """The splits in which each group is."""
    found: dict[str, set[str]] = {}
    for sample in scan.samples:
        found.setdefault((scan.groups or {})[sample.path], set()).add(sample.split)
    return found


def series(root: Path) -> Path:
    """24 images of each of three classes, of which four each are of one series."""
    for name in ("blue", "green", "red"):
        (root / name).mkdir(parents=True)
        for index in range(24):
            (root / name / f"{name[0]}{index // 4}-{index}.jpg").touch()
    return root


def test_scan__groups_stay_in_one_split(tmp_path: Path) -> None:
    scan = scan_folder(series(tmp_path), FRACTIONS, seed=0, group="(.*)-")
    found = splits_of(scan)
    assert len(found) == 18
    assert all(len(splits) == 1 for splits in found.values())
    counts = {split: sum(sample.split == split for sample in scan.samples) for split in scan.classes}
    assert counts == {"train": 48, "valid": 12, "test": 12}
    assert scan.origins["valid"] == "data.split.valid=0.15 of each class, drawn with seed 0, groups kept whole"
    assert scan.notes == ("groups: 18",)


def test_scan__groups_stay_in_one_split_where_valid_is_drawn_from_train(tmp_path: Path) -> None:
    series(tmp_path / "train")
    scan = scan_folder(tmp_path, FRACTIONS, seed=0, group="(.*)-")
    assert all(len(splits) == 1 for splits in splits_of(scan).values())
    assert {sample.split for sample in scan.samples} == {"train", "valid"}


def test_scan__no_test_split(tmp_path: Path) -> None:
    scan = scan_folder(series(tmp_path), SplitSettings(0.85, 0.15), seed=0, group="(.*)-")
    assert list(scan.classes) == ["train", "valid"]


def test_error__counts(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match=r"^data\.split\.train=6 and data\.split\.valid=3 cannot be counts with"):
        scan_folder(series(tmp_path), SplitSettings(6, 3), seed=0, group="(.*)-")


@pytest.mark.slow
def test_error__too_few_groups(tmp_path: Path) -> None:
    settings = settings_of(
        "data=folder", f"data.root={draw_classes(tmp_path, 12)}", "data.group=^(green|red)|[12]"
    ).data
    assert inspect_data(settings, seed=0).manifest.counts
    with pytest.raises(HeadstartError) as caught:
        prepare_data(settings, seed=0)
    assert str(caught.value).endswith(
        "of class 'green' is in the valid split, because each split needs one of its own: add images of other groups"
    )
