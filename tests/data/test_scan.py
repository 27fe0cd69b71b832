import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import draw, draw_classes, settings_of
from odd_files import saved
from torchvision.datasets import ImageFolder

from headstart.config.data import SplitSettings
from headstart.data.folders import LOOP, SECOND_LINK, Folder
from headstart.data.layout import NO_SPLIT, OUTSIDE, UNLABELLED
from headstart.data.scan import ClassFolders, Scan, scan_folder, scan_images
from headstart.errors import HeadstartError

RULE = SplitSettings(train=6, valid=3)
FRACTIONS = SplitSettings(train=0.7, valid=0.15)


def scan(root: Path, rule: SplitSettings = RULE) -> Scan:
    return scan_folder(root, rule, seed=0)


def paths(found: Scan, split: str) -> list[str]:
    return [sample.path for sample in found.samples if sample.split == split]


def counts(found: Scan) -> dict[str, int]:
    return {split: len(paths(found, split)) for split in found.classes}


def error_of(root: Path) -> str:
    with pytest.raises(HeadstartError) as caught:
        scan(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_split_folders(split_folders: Path) -> None:
    found = scan(split_folders)
    assert found.classes == dict.fromkeys(("train", "valid", "test"), ("blue", "green", "red"))
    assert counts(found) == {"train": 24, "valid": 12, "test": 12}
    assert found.folders["valid"] == split_folders / "val"
    assert found.samples[24] == ("valid", "blue", "val/blue/0.jpg")


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_split_folders__other_names_of_valid_and_no_test(split_folders: Path, name: str) -> None:
    (split_folders / "val").rename(split_folders / name)
    shutil.rmtree(split_folders / "test")
    assert counts(scan(split_folders)) == {"train": 24, "valid": 12}


def test_flat__by_counts(flat: Path) -> None:
    found = scan(flat)
    assert found.folders == {}
    assert counts(found) == {"train": 18, "valid": 9, "test": 9}
    # By name: "10.jpg" and "11.jpg" come before "2.jpg".
    assert paths(found, "train")[:4] == ["blue/0.jpg", "blue/1.jpg", "blue/10.jpg", "blue/11.jpg"]


def test_flat__by_fractions(flat: Path) -> None:
    found = scan(flat, SplitSettings(train=0.5, valid=0.25))
    assert counts(found) == {"train": 18, "valid": 9, "test": 9}
    everything = sorted(sample.path for sample in found.samples)
    assert everything == sorted(p.relative_to(flat).as_posix() for p in flat.rglob("*.jpg"))


def test_flat__nothing_left_for_test(flat: Path) -> None:
    assert counts(scan(flat, SplitSettings(train=8, valid=4))) == {"train": 24, "valid": 12}


def test_flat__a_class_may_be_called_train(flat: Path) -> None:
    draw_classes(flat / "tmp", 12)
    (flat / "tmp" / "red").rename(flat / "train")
    shutil.rmtree(flat / "tmp")
    assert scan(flat).classes["train"] == ("blue", "green", "red", "train")


def test_hidden_and_other_files__are_left_out_and_listed(flat: Path) -> None:
    (flat / "red" / "notes.txt").write_text("x")
    (flat / "red" / "._0.jpg").write_bytes(b"x")
    draw(flat / ".thumbnails" / "0.jpg", (1, 2, 3), seed=0)
    draw(flat / "red" / ".cache" / "0.jpg", (1, 2, 3), seed=0)
    found = scan(flat)
    assert found.classes["train"] == ("blue", "green", "red")
    assert counts(found) == {"train": 18, "valid": 9, "test": 9}
    assert found.left_out == dict.fromkeys((".thumbnails", "red/._0.jpg", "red/.cache", "red/notes.txt"), "")


def test_folders_beside_the_splits__are_left_out_and_listed(split_folders: Path) -> None:
    draw(split_folders / "spare" / "red" / "0.jpg", (1, 2, 3), seed=0)
    (split_folders / ".headstart.json").write_text("{}")
    found = scan(split_folders)
    assert counts(found) == {"train": 24, "valid": 12, "test": 12}
    assert found.left_out == {"spare": NO_SPLIT}


def test_images_in_subfolders__belong_to_the_class(flat: Path) -> None:
    draw(flat / "red" / "more" / "0.jpg", (200, 0, 0), seed=5)
    assert "red/more/0.jpg" in paths(scan(flat), "test")


def test_files__stay_unchanged(flat: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in flat.rglob("*")}
    scan(flat)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in flat.rglob("*")} == before


def test_error__root(tmp_path: Path) -> None:
    assert error_of(tmp_path / "nowhere").startswith(f"data.root={tmp_path / 'nowhere'} does not exist")
    (tmp_path / "file").write_text("")
    assert "is a file" in error_of(tmp_path / "file")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "images.ZIP").touch()
    assert error_of(tmp_path / "downloads") == (
        f"{tmp_path / 'downloads'} has no class folders, but holds images.ZIP: to read an archive, set "
        f"data.root={tmp_path / 'downloads' / 'images.ZIP'}"
    )
    (tmp_path / "empty").mkdir()
    assert "has no class folders" in error_of(tmp_path / "empty")


def test_error__counts_and_fractions(flat: Path, split_folders: Path) -> None:
    mixed = SplitSettings(train=0.7, valid=3)
    with pytest.raises(HeadstartError, match="give two counts or two fractions"):
        scan(flat, mixed)
    # The share of train has no meaning here.
    shutil.rmtree(split_folders / "val")
    assert counts(scan(split_folders, mixed)) == {"train": 15, "valid": 9, "test": 12}


def test_error__two_valid_folders(split_folders: Path) -> None:
    shutil.copytree(split_folders / "val", split_folders / "valid")
    assert error_of(split_folders) == (
        f"{split_folders / 'valid'} and {split_folders / 'val'} both exist: which one is the valid split? "
        "Rename the other"
    )


@pytest.mark.parametrize(("rule", "count"), [(FRACTIONS, 1), (SplitSettings(0.7, 0.25), 2), (RULE, 3)])
def test_train_without_valid__validates_on_a_share_of_each_class(
    split_folders: Path, rule: SplitSettings, count: int
) -> None:
    before = scan(split_folders, rule)
    assert before.notes == ()
    shutil.rmtree(split_folders / "val")
    found = scan(split_folders, rule)
    assert counts(found) == {"train": 24 - 3 * count, "valid": 3 * count, "test": 12}
    assert Counter(sample.class_name for sample in found.samples if sample.split == "valid") == dict.fromkeys(
        ("blue", "green", "red"), count
    )
    assert sorted(paths(found, "train") + paths(found, "valid")) == sorted(paths(before, "train"))
    assert set(found.folders) == {"train", "test"}
    assert found.origins["valid"] == f"data.split.valid={rule.valid} of each class of train, drawn with seed 0"
    assert found.notes == (f"no valid split: {3 * count} images of train are used for it ({found.origins['valid']})",)


def test_train_without_valid__drawn_by_seed_wherever_the_folder_is(split_folders: Path, tmp_path: Path) -> None:
    shutil.rmtree(split_folders / "val")
    rule = SplitSettings(0.7, 0.5)
    first = paths(scan(split_folders, rule), "valid")
    assert first == paths(scan(split_folders, rule), "valid")
    assert first != paths(scan_folder(split_folders, rule, seed=1), "valid")
    (tmp_path / "outer").mkdir()
    split_folders.rename(tmp_path / "outer" / "data")
    (tmp_path / "outer" / "data" / "train").rename(tmp_path / "outer" / "data" / "Training")
    moved = paths(scan(tmp_path / "outer", rule), "valid")
    assert moved == [path.replace("train/", "data/Training/") for path in first]


def test_train_alone(split_folders: Path) -> None:
    for name in ("val", "test"):
        shutil.rmtree(split_folders / name)
    assert counts(scan(split_folders, FRACTIONS)) == {"train": 21, "valid": 3}


@pytest.mark.parametrize("inner", [".", "images"])
def test_unlabelled_test_images__are_left_out_and_named(split_folders: Path, inner: str) -> None:
    shutil.rmtree(split_folders / "test")
    draw(split_folders / "test" / inner / "0.jpg", (9, 9, 9), seed=0)
    found = scan(split_folders)
    assert counts(found) == {"train": 24, "valid": 12}
    assert found.left_out == {"test": UNLABELLED}
    assert found.unlabelled == {"test": split_folders / "test"}
    assert found.notes == (
        f"{split_folders / 'test'} has no class folders, so it is not used as the test split; to predict on it: "
        f"python predict.py ckpt_path=last source={split_folders / 'test'}",
    )


def test_unlabelled_test_images__the_command_can_be_pasted(split_folders: Path) -> None:
    shutil.rmtree(split_folders / "test")
    root = split_folders.rename(split_folders.with_name("my images"))
    draw(root / "test" / "0.jpg", (9, 9, 9), seed=0)
    assert scan(root).notes[0].endswith(f" 'source={root / 'test'}'")


@pytest.mark.parametrize("above", ["", "data/"])
def test_other_names_of_splits__are_said_in_one_line(split_folders: Path, tmp_path: Path, above: str) -> None:
    root = tmp_path / "root"
    (root / above).mkdir(parents=True)
    for old, new in {"train": "Training", "val": "Dev", "test": "Testing"}.items():
        (split_folders / old).rename(root / above / new)
    found = scan(root)
    assert counts(found) == {"train": 24, "valid": 12, "test": 12}
    folders = {"train": "Training", "valid": "Dev", "test": "Testing"}
    assert found.folders == {split: root / above / name for split, name in folders.items()}
    assert found.notes == ("; ".join(f"{split} split: {root / above / name}" for split, name in folders.items()),)
    assert found.samples[0].path == f"{above}Training/blue/0.jpg"


def test_layout__classes(split_folders: Path) -> None:
    found = scan_folder(split_folders, RULE, seed=0, layout="classes")
    assert found.classes["train"] == ("test", "train", "val")


def test_images_outside_the_class_folders__are_left_out_and_listed(flat: Path, split_folders: Path) -> None:
    draw(flat / "cover.jpg", (1, 2, 3), seed=0)
    assert scan(flat).left_out == {"cover.jpg": OUTSIDE}
    draw(split_folders / "cover.jpg", (1, 2, 3), seed=0)
    draw(split_folders / "train" / "sample.jpg", (1, 2, 3), seed=0)
    assert scan(split_folders).left_out == {"cover.jpg": OUTSIDE, "train/sample.jpg": OUTSIDE}


def test_images__whatever_pillow_reads(flat: Path) -> None:
    names = {"a.jfif": "JPEG", "b.jpe": "JPEG", "c.avif": "AVIF", "d.jp2": "JPEG2000", "e.tga": "TGA", "f": "WEBP"}
    for name, form in names.items():
        (flat / "red" / name).write_bytes(saved(form))
    found = scan(flat)
    assert {f"red/{name}" for name in names} <= {sample.path for sample in found.samples}
    assert found.left_out == {}


@pytest.mark.parametrize(("link", "target"), [("red/loop", "."), ("red/loop", ".."), ("red/loop", "/"), ("loop", ".")])
def test_links__to_a_folder_above_count_nothing_twice(flat: Path, link: str, target: str) -> None:
    before = scan(flat).samples
    (flat / link).symlink_to(target, target_is_directory=True)
    assert scan(flat).samples == before
    assert scan(flat).left_out == {link: LOOP}


def test_links__in_a_class_every_file_counts_once(flat: Path, tmp_path: Path) -> None:
    before = scan(flat).samples
    (flat / "red" / "00 link.jpg").symlink_to("0.jpg")
    (flat / "red" / "also").symlink_to("../red/1.jpg")
    draw(tmp_path / "elsewhere" / "x.jpg", (1, 2, 3), seed=0)
    for name in ("more", "yet more"):
        (flat / "red" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = scan(flat)
    (new,) = set(found.samples) - set(before)
    assert new.path in ("red/more/x.jpg", "red/yet more/x.jpg")
    assert len(found.samples) == len(before) + 1
    assert list(found.left_out.values()) == [SECOND_LINK] * 3


def test_links__two_classes_may_have_the_same_files(flat: Path) -> None:
    (flat / "crimson").symlink_to("red", target_is_directory=True)
    found = scan(flat)
    assert found.classes["train"] == ("blue", "crimson", "green", "red")
    assert counts(found) == {"train": 24, "valid": 12, "test": 12}


def test_unreadable_folders__are_named(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(flat / "red" / "closed" / "a.jpg", (1, 2, 3), seed=0)
    real = Folder.error
    said = property(lambda self: "Permission denied" if self.path.name == "closed" else real.fget(self))  # type: ignore[attr-defined]
    monkeypatch.setattr(Folder, "error", said)
    assert scan(flat).unreadable == {"red/closed": "Permission denied"}


def test_class_folders__are_an_image_folder(flat: Path) -> None:
    (flat / "red" / "unnamed").write_bytes(saved("PNG"))
    folders = ClassFolders(Folder(flat))
    assert isinstance(folders, ImageFolder)
    assert folders.classes == ["blue", "green", "red"]
    assert len(folders) == 37
    image, label = folders[36]
    assert (image.mode, image.size, label) == ("RGB", (60, 40), 2)


def test_flat__small_classes_keep_their_test_split(flat: Path) -> None:
    for path in flat.rglob("*.jpg"):
        if path.stem not in ("0", "1"):
            path.unlink()
    # Which the check for trainable data then finds empty.
    assert counts(scan(flat, FRACTIONS)) == {"train": 3, "valid": 3, "test": 0}
    assert counts(scan(flat, SplitSettings(0.5, 0.5))) == {"train": 3, "valid": 3}


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*_mask.*"], {"0.png", "1.png", "1-Mask.png"}),
        (["*[-_]mask.png"], {"0.png", "1.png"}),
        (["*_MASK.png", "1-*"], {"0.png", "1.png"}),
        (["dog/*_mask.png"], {"0.png", "1.png", "1-Mask.png", "0_mask.png"}),
    ],
)
def test_exclude__leaves_out_by_pattern(tmp_path: Path, patterns: list[str], left: set[str]) -> None:
    for name in ("0.png", "0_mask.png", "1.png", "1-Mask.png"):
        for folder in ("cat", "dog"):
            draw(tmp_path / folder / name, (9, 9, 9), seed=0)
    scan = scan_folder(tmp_path, SplitSettings(0.5, 0.25), seed=0, exclude=patterns)
    assert {sample.path.removeprefix("cat/") for sample in scan.samples if sample.class_name == "cat"} == left
    assert len(scan.left_out) + len(scan.samples) == 8
    assert set(scan.left_out.values()) == {"data.exclude"}


def test_exclude__of_a_table_and_of_nothing(tmp_path: Path, messages: list[str]) -> None:
    lines = ["path,label"]
    for name in ("0.png", "0_mask.png", "1.png", "1_mask.png"):
        for folder in ("cat", "dog"):
            draw(tmp_path / folder / name, (9, 9, 9), seed=0)
            lines.append(f"{folder}/{name},{folder}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    options = (f"data.root={tmp_path}", f"data.csv={tmp_path / 'labels.csv'}", "data.exclude=['*_mask.*','*.gif']")
    scan = scan_images(settings_of("data=csv", *options).data, 0)
    assert {sample.path for sample in scan.samples} == {"cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"}
    assert len(scan.left_out) == 4
    assert messages == ["data.exclude: no image matches *.gif"]


def test_exclude__a_whole_class(flat: Path) -> None:
    scan = scan_folder(flat, SplitSettings(train=6, valid=3), seed=0, exclude=["red/*"])
    assert scan.classes["train"] == ("blue", "green")
    assert len(scan.left_out) == 12
