"""Whatever an error says about 3,000 classes can be read."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SMALL, settings_of
from tiny_classifier import tiny_classifier

from headstart.auditing.findings import find_problems
from headstart.auditing.report import findings_table
from headstart.config.data import SplitSettings
from headstart.data.image_info import ImageInfo
from headstart.data.manifest import build_manifest, check_trainable
from headstart.data.prepare import PreparedData
from headstart.data.scan import Scan, scan_folder, scan_images
from headstart.errors import HeadstartError
from headstart.model.image_classifier import ImageClassifier
from headstart.pipeline import _check_same_classes
from headstart.predict.labelled import true_classes

COUNT, LONGEST = 3000, 1000  # characters, with two paths of a temporary folder
CLASSES = tuple(f"class number {number:04}" for number in range(COUNT))
OTHERS = tuple(f"another class {number:04}" for number in range(COUNT))


def scan_of(root: Path, rows: list[str], header: str = "path,label,split", *overrides: str) -> Scan:
    """What a table says, of which hardly any file exists."""
    (root / "train").mkdir(parents=True, exist_ok=True)
    (root / "0.jpg").touch()
    (root / "train" / "0.jpg").touch()
    (root / "labels.csv").write_text("\n".join([header, *rows]))
    options = [option for option in SMALL if option != "data=folder"]
    settings = settings_of(*options, "data=csv", f"data.csv={root / 'labels.csv'}", f"data.root={root}", *overrides)
    return scan_images(settings.data, 0)


def data_of(scan: Scan, content: str | None = None) -> PreparedData:
    """As if all files were images, each with its own content unless all have `content`."""
    infos = {sample.path: ImageInfo(content or sample.path) for sample in scan.samples}
    return PreparedData(build_manifest(scan, infos, skipped=(), dropped=()), scan, infos)


def rows(split: str, classes: tuple[str, ...] = CLASSES) -> list[str]:
    return [f"{split}/{number}.jpg,{name},{split}" for number, name in enumerate(classes)]


def one_image(split: str) -> list[str]:
    return [f"0.jpg,{CLASSES[0]},{split}"]


def assert_short(error: BaseException, *words: str) -> None:
    assert isinstance(error, HeadstartError)
    assert len(str(error)) < LONGEST, f"{len(str(error))} characters: {str(error)[:2000]}"
    for word in words:
        assert word in str(error)


def with_classes(classes: tuple[str, ...]) -> ImageClassifier:
    classifier = tiny_classifier()
    classifier.recipe = replace(classifier.recipe, classes=classes, class_counts=(1,) * len(classes))
    return classifier


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (OTHERS, ("its classes have class number 0000, ", "and 2988 more and lack another class 0000, ")),
        (CLASSES[1:], ("its classes have class number 0000",)),
        ((*CLASSES, "new"), ("its classes lack new",)),
        (CLASSES[::-1], ("its classes are in another order: class number 0000, ", "not class number 2999, ")),
    ],
)
def test_resume__with_other_classes(classes: tuple[str, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(HeadstartError) as caught:
        with_classes(classes).recipe.check_resumable(with_classes(CLASSES).recipe.as_dict())
    assert_short(caught.value, *words)


@pytest.mark.slow
def test_task_test__on_other_classes(tmp_path: Path) -> None:
    data = data_of(scan_of(tmp_path / "images", [*one_image("train"), *rows("train")]))
    with pytest.raises(HeadstartError) as caught:
        _check_same_classes(data.manifest, with_classes(OTHERS).recipe)
    assert_short(caught.value, "class number 0000", "and 2988 more", "another class 0000")


def test_labelled__folders_that_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError) as caught:
        true_classes(tmp_path, [tmp_path / name / "1.jpg" for name in OTHERS], CLASSES)
    assert_short(caught.value, "another class 0000", "class number 0000")


@pytest.mark.slow
def test_split__without_most_classes(tmp_path: Path) -> None:
    for split, verb in (("valid", "lacks"), ("train", "has")):
        few = [*one_image(split), f"{split}/few.jpg,{CLASSES[1]},{split}"]
        scan = scan_of(tmp_path / "images", [*few, *rows("train" if split == "valid" else "valid")])
        with pytest.raises(HeadstartError) as caught:
            check_trainable(data_of(scan).manifest, scan)
        assert_short(caught.value, f"{verb} the classes", "class number 0002", "and 2993 more")


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [(), ("data.split.train=2", "data.split.valid=1", "data.group=null"), ("data.group=group",)]
)
def test_split__of_classes_that_are_too_small(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    table = [f"{number}.jpg,{name},{number}" for number, name in enumerate(CLASSES)]
    scan = scan_of(tmp_path / "images", table, "path,label,group", *overrides)
    with pytest.raises(HeadstartError) as caught:
        check_trainable(data_of(scan).manifest, scan)
    assert_short(caught.value, "class number 0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "table"),
    [
        ("path,split," + ",".join(CLASSES), ["0.jpg,train," + ",".join(["0"] * COUNT)]),
        (",".join(CLASSES), [",".join(["0"] * COUNT)]),
        ("path,label,split", [f"0.jpg,{CLASSES[0]},{CLASSES[1]}"]),
        ("path,label,split", [*rows("train"), f"0.jpg,{'|'.join(CLASSES[:30])},train"]),
    ],
)
def test_csv__with_a_mistake(tmp_path: Path, header: str, table: list[str]) -> None:
    with pytest.raises(HeadstartError) as caught:
        scan_of(tmp_path / "images", table, header)
    assert_short(caught.value, "labels.csv")


@pytest.mark.slow
def test_csv__with_one_image_in_every_class(tmp_path: Path) -> None:
    labels = [f"0.jpg,{name},train" for name in CLASSES]
    scan = scan_of(tmp_path / "images", [*rows("train"), *labels])
    (problem,) = scan.problems
    assert len(problem.says) < LONGEST


@pytest.mark.slow
def test_audit__of_copies_in_every_class(tmp_path: Path) -> None:
    data = data_of(scan_of(tmp_path / "images", [*one_image("train"), *rows("train"), *rows("valid", OTHERS)]), "same")
    table = findings_table(find_problems(data))
    assert "conflicting labels" in table
    assert "class missing from a split" in table
    assert max(map(len, table.splitlines())) < LONGEST
    assert len(table) < 10 * LONGEST
    assert len(data.manifest.describe()) < LONGEST


@pytest.mark.slow
def test_folders__that_may_be_read_in_two_ways(tmp_path: Path) -> None:
    for part in ("left", "right"):
        for name in CLASSES[:300]:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.jpg").touch()
    with pytest.raises(HeadstartError) as caught:
        scan_folder(tmp_path, SplitSettings(0.7, 0.15), 0)
    assert_short(caught.value, "can be read in two ways", "class number 0000")
    (tmp_path / "left").rename(tmp_path / "train")
    with pytest.raises(HeadstartError) as caught:
        scan_folder(tmp_path, SplitSettings(0.7, 0.15), 0)
    assert_short(caught.value, "can be read in two ways")
