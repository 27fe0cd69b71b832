from pathlib import Path

import pytest
from faulty import FAULTS, Fault, clean, conflicting_labels, copies_across, near_duplicate, unreadable

from headstart.data.audit import SIGN_NAMES, SPOILS, Finding, audit
from headstart.data.inspection import inspect_all
from headstart.data.listing import read_listing
from headstart.settings import SplitSettings

# pytest shows what the program itself keeps quiet about, because it refuses such a picture anyway.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
# It takes features to find those: see test_near_duplicates.py and tests/e2e/test_data.py.
BY_CONTENT = tuple(fault for fault in FAULTS if fault is not near_duplicate)


def findings(root: Path) -> list[Finding]:
    listing = read_listing(root, SplitSettings(train=6, valid=3), seed=0)
    return audit(listing, inspect_all(root, [path for _, _, path in listing.samples()]))


def test_clean__nothing_is_found(tmp_path: Path) -> None:
    assert findings(clean(tmp_path)) == []


@pytest.mark.parametrize("fault", BY_CONTENT, ids=lambda fault: fault.__name__)
def test_fault__is_found_and_nothing_else(tmp_path: Path, fault: Fault) -> None:
    kind, paths = fault(clean(tmp_path))
    assert [(finding.kind, finding.paths) for finding in findings(tmp_path)] == [(kind, paths)]


def test_faults__all_at_once(tmp_path: Path) -> None:
    clean(tmp_path)
    expected = [fault(tmp_path) for fault in BY_CONTENT]
    renamed = {path: path.replace("test/cat/", "test/Cat /") for _, paths in expected for path in paths}
    found = findings(tmp_path)
    assert sorted((f.kind, f.paths) for f in found) == sorted(
        (kind, tuple(renamed[path] for path in paths)) for kind, paths in expected
    )
    order = [list(SPOILS).index(finding.kind) for finding in found]
    assert order == sorted(order)


def test_every_kind_has_a_fault_that_shows_it(tmp_path: Path) -> None:
    clean(tmp_path)
    assert {fault(tmp_path)[0] for fault in FAULTS} == set(SPOILS)


def test_says__reasons_and_figures(tmp_path: Path) -> None:
    clean(tmp_path)
    for fault in BY_CONTENT:
        fault(tmp_path)
    says = {finding.kind: finding.says for finding in findings(tmp_path)}
    assert says["empty file"] == "the file is empty"
    assert says["conflicting labels"] == "the same picture as ant and cat"
    assert says["copies across splits"] == "the same picture in test and train"
    assert says["class names alike"] == "'Cat ' and 'cat'"
    assert says["class missing in a split"] == "'dog' is in train and not in test"
    assert says["class extra in a split"] == "'elk' is in test and not in train"
    assert says["class without pictures"] == "'fox' has none in train and valid and test"
    assert says["tiny class"] == "'gnu' has 9 in train"
    assert says["imbalance"].startswith("'hen' has 5.6 × the pictures of 'gnu' in train")
    assert says["extension that lies"] == "it is PNG"
    assert says["far larger than the rest"] == "400 × 300"


def test_conflict_across_splits__is_both(tmp_path: Path) -> None:
    clean(tmp_path)
    (tmp_path / "test/bee/an ant.jpg").write_bytes((tmp_path / "train/ant/00.jpg").read_bytes())
    assert [finding.kind for finding in findings(tmp_path)] == ["conflicting labels", "copies across splits"]


def test_order__conflicting_labels_come_before_copies(tmp_path: Path) -> None:
    clean(tmp_path)
    copies_across(tmp_path)
    conflicting_labels(tmp_path)
    assert [finding.kind for finding in findings(tmp_path)] == ["conflicting labels", "copies across splits"]


def test_flat_folder__copies_across_the_splits_of_the_rule(tmp_path: Path) -> None:
    (clean(tmp_path / "all") / "train").rename(tmp_path / "flat")
    flat = tmp_path / "flat"
    # Six of a class are left to train on.
    assert {finding.kind for finding in findings(flat)} == {"tiny class"}
    (flat / "bee" / "11.jpg").write_bytes((flat / "bee" / "00.jpg").read_bytes())
    assert findings(flat)[0].says == "the same picture in test and train"


def test_unreadable__equal_contents_are_no_copies(tmp_path: Path) -> None:
    clean(tmp_path)
    for path in ("train/ant/a.jpg", "test/ant/b.jpg"):
        (tmp_path / path).write_bytes(b"")
    unreadable(tmp_path)
    assert {finding.kind for finding in findings(tmp_path)} == {"unreadable", "empty file"}


@pytest.mark.parametrize("name", ["imagenotfound", "photo-not-available", "placeholder", "no_image", "image_missing"])
def test_names_of_placeholders(name: str) -> None:
    assert SIGN_NAMES.search(name)


@pytest.mark.parametrize("name", ["piano_image", "domino-photo", "img_0012", "missing_tooth", "casino"])
def test_names_that_are_none(name: str) -> None:
    assert not SIGN_NAMES.search(name)
