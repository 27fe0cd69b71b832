from pathlib import Path

import pytest
from faulty import FAULTS, FROM_FEATURES, Fault, clean, conflicting_labels, duplicates_across, photo, unreadable

from headstart.auditing.findings import (
    ABOUT,
    ADVICE,
    GROUPS_ACROSS_SPLITS,
    MISSING_GROUPS,
    MISSING_VALUE,
    NO_GROUP,
    ODD_DEPTH,
    SAME_NAME,
    SIGN_NAMES,
    SIMILAR_GROUPS,
    SMALLER,
    UNUSED_BITS,
    Finding,
    find_problems,
)
from headstart.config.data import SplitSettings
from headstart.data.image_info import MISSING, inspect_images
from headstart.data.labels import CONFLICTING_ROWS, DUPLICATE, INCOMPLETE
from headstart.data.manifest import build_manifest
from headstart.data.prepare import PreparedData
from headstart.data.scan import scan_folder

# pytest shows this warning, which the program suppresses because it rejects such an image anyway.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
# The others take features to find: see test_near_duplicates.py and tests/e2e/test_data.py.
# Those of test_depth.py, and those of test_findings_of_labels.py.
OF_DEPTH = {UNUSED_BITS, ODD_DEPTH}
OF_LABELS = {MISSING, INCOMPLETE, DUPLICATE, CONFLICTING_ROWS, GROUPS_ACROSS_SPLITS, NO_GROUP, MISSING_GROUPS}
OF_NAMES = {MISSING_VALUE, SIMILAR_GROUPS}
BY_CONTENT = tuple(fault for fault in FAULTS if fault not in FROM_FEATURES)


def problems(root: Path) -> list[Finding]:
    scan = scan_folder(root, SplitSettings(train=6, valid=3), seed=0)
    infos = inspect_images(root, [sample.path for sample in scan.samples])
    return find_problems(PreparedData(build_manifest(scan, infos, skipped=(), dropped=()), scan, infos))


def test_clean__no_findings(tmp_path: Path) -> None:
    assert problems(clean(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", BY_CONTENT, ids=lambda fault: fault.__name__)
def test_fault__is_found_and_nothing_else(tmp_path: Path, fault: Fault) -> None:
    kind, paths = fault(clean(tmp_path))
    assert [(finding.kind, finding.paths) for finding in problems(tmp_path)] == [(kind, paths)]


@pytest.mark.slow
def test_faults__are_found_together_in_the_order_of_severity(tmp_path: Path) -> None:
    clean(tmp_path)
    expected = [fault(tmp_path) for fault in BY_CONTENT]
    renamed = {path: path.replace("test/cat/", "test/Cat /") for _, paths in expected for path in paths}
    found = problems(tmp_path)
    assert sorted((f.kind, f.paths) for f in found) == sorted(
        (kind, tuple(renamed[path] for path in paths)) for kind, paths in expected
    )
    order = [list(ADVICE).index(finding.kind) for finding in found]
    assert order == sorted(order)


@pytest.mark.slow
def test_every_kind_of_finding_has_a_fault(tmp_path: Path) -> None:
    clean(tmp_path)
    found = {fault(tmp_path)[0] for fault in FAULTS}
    assert found | OF_LABELS | OF_DEPTH | OF_NAMES == set(ADVICE)


def test_severity__errors_come_first() -> None:
    severities = [Finding(kind, ()).severity for kind in ADVICE]
    assert severities == sorted(severities, key=["error", "warning"].index)
    assert Finding("conflicting labels", ("a", "b")).severity == "error"
    assert Finding("small class", ()).severity == "warning"


@pytest.mark.slow
def test_says__reasons_and_figures(tmp_path: Path) -> None:
    clean(tmp_path)
    for fault in BY_CONTENT:
        fault(tmp_path)
    says = {finding.kind: finding.says for finding in problems(tmp_path)}
    assert says["empty file"] == "the file is empty"
    assert says["conflicting labels"] == "the same image in classes ant and cat"
    assert says["duplicates across splits"] == "the same image in test and train"
    assert says["duplicates within a split"] == "the same image 2 times in train"
    assert says["similar class names"] == "'Cat ' and 'cat'"
    assert says["class missing from a split"] == "'dog' is in train but not in test"
    assert says["class missing from train"] == "'elk' is in test but not in train"
    assert says["empty class"] == "'fox' has no images in train, valid, test"
    assert says["small class"] == "'gnu' has 9 images in train"
    assert says["class imbalance"] == "'hen' has 5.6 × the images of 'gnu' in train: see data.balance"
    assert says["extension does not match format"] == "it is PNG"
    assert says["unusually large"] == "400 × 300"
    assert says["multiple frames"] == "2 frames; only the first one is used"
    assert says["EXIF-rotated"] == "orientation 6; it is rotated upright"


def test_conflict_across_splits__is_both(tmp_path: Path) -> None:
    clean(tmp_path)
    (tmp_path / "test/bee/an ant.jpg").write_bytes((tmp_path / "train/ant/00.jpg").read_bytes())
    assert [finding.kind for finding in problems(tmp_path)] == ["conflicting labels", "duplicates across splits"]


def test_order__conflicting_labels_come_before_duplicates(tmp_path: Path) -> None:
    clean(tmp_path)
    duplicates_across(tmp_path)
    conflicting_labels(tmp_path)
    assert [finding.kind for finding in problems(tmp_path)] == ["conflicting labels", "duplicates across splits"]


def test_flat_folder__duplicates_across_the_splits_of_the_rule(tmp_path: Path) -> None:
    (clean(tmp_path / "all") / "train").rename(tmp_path / "flat")
    flat = tmp_path / "flat"
    # Six images of each class are left to train on.
    assert {finding.kind for finding in problems(flat)} == {"small class"}
    (flat / "bee" / "11.jpg").write_bytes((flat / "bee" / "00.jpg").read_bytes())
    assert problems(flat)[0].says == "the same image in test and train"


def test_unreadable__files_with_equal_content_are_no_duplicates(tmp_path: Path) -> None:
    clean(tmp_path)
    for path in ("train/ant/a.jpg", "test/ant/b.jpg"):
        (tmp_path / path).write_bytes(b"")
    unreadable(tmp_path)
    assert {finding.kind for finding in problems(tmp_path)} == {"unreadable", "empty file"}


@pytest.mark.parametrize(
    ("paths", "removed", "remains"),
    [
        (("a",), set(), True),
        (("a",), {"a"}, False),
        (("a",), {"other"}, True),
        (("a", "b"), {"a"}, False),
        (("a", "b"), {"a", "b"}, False),
        (("a", "b", "c"), {"a"}, True),
        (("a", "b", "c"), {"a", "b"}, False),
        # What concerns a class, not single files.
        ((), {"a"}, True),
    ],
)
def test_remains_without__one_of_several_paths_is_no_duplicate(
    paths: tuple[str, ...], removed: set[str], remains: bool
) -> None:
    assert Finding("duplicates across splits", paths).remains_without(removed) is remains


@pytest.mark.parametrize("name", ["photo", "photo.xyz", "a.jfif", "a.jpe", "a.JPG", "a.mpo"])
def test_extension__no_finding_where_it_matches_or_says_nothing(tmp_path: Path, name: str) -> None:
    content = photo(clean(tmp_path) / "scratch.jpg", 960).read_bytes()
    (tmp_path / "scratch.jpg").unlink()
    (tmp_path / "train" / "ant" / name).write_bytes(content)
    assert problems(tmp_path) == []


@pytest.mark.parametrize("name", ["a.jp2", "a.avif", "a.tga", "a.png", "a.ico"])
def test_extension__of_another_format(tmp_path: Path, name: str) -> None:
    content = photo(clean(tmp_path) / "scratch.jpg", 960).read_bytes()
    (tmp_path / "scratch.jpg").unlink()
    (tmp_path / "train" / "ant" / name).write_bytes(content)
    (finding,) = problems(tmp_path)
    assert (finding.kind, finding.says) == ("extension does not match format", "it is JPEG")


def test_other_files__with_the_reason(tmp_path: Path) -> None:
    clean(tmp_path)
    (tmp_path / "train" / "ant" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "train" / "ant" / "again.jpg").symlink_to("00.jpg")
    (tmp_path / "train" / "ant" / "gone").symlink_to("nowhere")
    photo(tmp_path / "train" / "stray.jpg", 961)
    photo(tmp_path / "spare" / "0.jpg", 962)
    found = problems(tmp_path)
    assert {finding.kind for finding in found} == {"other file"}
    assert {finding.paths[0]: finding.says for finding in found} == {
        "spare": "folder beside the splits",
        "train/ant/again.jpg": "second link to the same",
        "train/ant/gone": "broken link",
        "train/ant/loop": "link to a folder above it",
        "train/stray.jpg": "image outside the class folders",
    }


@pytest.mark.parametrize("name", ["imagenotfound", "photo-not-available", "placeholder", "no_image", "image_missing"])
def test_placeholder_names(name: str) -> None:
    assert SIGN_NAMES.search(name)


@pytest.mark.parametrize("name", ["piano_image", "domino-photo", "img_0012", "missing_tooth", "casino"])
def test_placeholder_names__false_friends(name: str) -> None:
    assert not SIGN_NAMES.search(name)


@pytest.mark.parametrize(
    ("name", "kind", "pattern"),
    [
        ("00_mask.png", ABOUT, "*_mask.*"),
        ("00-Seg.png", ABOUT, "*-seg.*"),
        ("00.labels.png", ABOUT, "*.labels.*"),
        ("00_depth.jpg", ABOUT, "*_depth.*"),
        ("mask_00.jpg", ABOUT, "mask_*"),
        ("00.thumb.jpg", SMALLER, "*.thumb.*"),
        ("00_small.jpg", SMALLER, "*_small.*"),
        ("00-150x100.jpg", SMALLER, "*-[0-9]*x[0-9]*.*"),
        ("tn_00.jpg", SMALLER, "tn_*"),
        ("masks/00.png", ABOUT, "*/masks/*"),
        ("more/00.png", None, None),
        ("masks/no such image.png", None, None),
        ("00.png", SAME_NAME, None),
        ("no such image_mask.png", None, None),
        ("mask.png", None, None),
    ],
)
def test_companions__are_found_by_name_and_left_out_by_the_pattern(
    tmp_path: Path, name: str, kind: str | None, pattern: str | None
) -> None:
    photo(clean(tmp_path) / "train/cat" / name, 981)
    found = problems(tmp_path)
    assert [finding.kind for finding in found] == ([kind] if kind else [])
    if pattern is None:
        return
    assert f"data.exclude=['{pattern}']" in found[0].says
    scan = scan_folder(tmp_path, SplitSettings(train=6, valid=3), seed=0, exclude=[pattern])
    assert list(scan.left_out) == [f"train/cat/{name}"]


def test_missing_value__class_folders_that_may_hold_what_has_no_label(tmp_path: Path) -> None:
    clean(tmp_path)
    for split in ("train", "valid", "test"):
        (tmp_path / split / "cat").rename(tmp_path / split / "_Unlabeled [1]")
    (found,) = problems(tmp_path)
    assert (found.kind, found.severity) == ("possible missing value", "warning")
    assert found.says == ("'_Unlabeled [1]' has 20 images: data.exclude=['*/_Unlabeled [[]1]/*'] leaves them out")
