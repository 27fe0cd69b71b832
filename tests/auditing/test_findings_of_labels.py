"""What an audit finds in a CSV, and in groups; and what training does about it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import settings_of
from faulty import CLASSES, clean

from headstart.auditing.findings import MISSING_GROUPS, MISSING_VALUE, SIMILAR_GROUPS, Finding, find_problems
from headstart.auditing.report import AuditReport, find_from_features, missing_groups
from headstart.config.data import DataSettings
from headstart.data.prepare import PreparedData, inspect_data, prepare_data
from headstart.errors import HeadstartError


def rows_of(root: Path) -> list[str]:
    """A row for each image of a clean folder."""
    clean(root)
    return [
        f"{path.relative_to(root).as_posix()},{path.parent.name},{path.parent.parent.name}"
        for path in sorted(root.rglob("*.jpg"))
    ]


def settings(root: Path, rows: list[str], *overrides: str, header: str = "path,label,split") -> DataSettings:
    (root / "labels.csv").write_text("\n".join([header, *rows]))
    given = ("data=csv", f"data.csv={root / 'labels.csv'}", f"data.root={root}")
    return settings_of(*given, *overrides).data


def inspect(root: Path, rows: list[str], *overrides: str, header: str = "path,label,split") -> PreparedData:
    return inspect_data(settings(root, rows, *overrides, header=header), seed=0)


def error_of(root: Path, rows: list[str], *overrides: str) -> str:
    with pytest.raises(HeadstartError) as caught:
        prepare_data(settings(root, rows, *overrides), seed=0)
    return str(caught.value).replace(str(root), "DIR")


@pytest.mark.slow
def test_clean__no_findings_and_the_same_splits_as_by_folders(tmp_path: Path) -> None:
    data = inspect(tmp_path, rows_of(tmp_path))
    assert find_problems(data) == []
    by_folder = inspect_data(settings_of("data=folder", f"data.root={tmp_path}").data, seed=0)
    assert data.manifest.fingerprint == by_folder.manifest.fingerprint
    assert data.manifest.classes == CLASSES
    assert data.manifest.origins["test"] == f"the test split in {tmp_path / 'labels.csv'}"


def test_split_by_rule__is_the_same_as_by_folders(tmp_path: Path) -> None:
    flat = clean(tmp_path / "all") / "train"
    rows = [f"{path.relative_to(flat).as_posix()},{path.parent.name}" for path in flat.rglob("*.jpg")]
    data = inspect(flat, rows, header="path,label")
    by_folder = inspect_data(settings_of("data=folder", f"data.root={flat}").data, seed=0)
    assert data.manifest.fingerprint == by_folder.manifest.fingerprint


@pytest.mark.slow
def test_missing_file(tmp_path: Path) -> None:
    rows = [*rows_of(tmp_path), "gone.jpg,ant,test"]
    expected = [Finding("missing file", ("gone.jpg",), "No such file or directory")]
    assert find_problems(inspect(tmp_path, rows)) == expected
    assert error_of(tmp_path, rows).startswith("DIR/gone.jpg, which DIR/labels.csv names, does not exist; repair or")
    data = prepare_data(settings(tmp_path, rows, "data.on_unreadable=skip"), seed=0)
    assert data.manifest.skipped == ("gone.jpg",)


def test_all_files_missing__is_about_the_folder(tmp_path: Path) -> None:
    assert error_of(tmp_path, ["x/1.jpg,ant,train", "x/2.jpg,bee,train"]) == (
        "the files that DIR/labels.csv names, such as x/1.jpg, are not in data.root=DIR: set the folder to which its "
        "paths are relative"
    )


def test_all_files_missing__but_for_those_beside_the_table(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    (tmp_path / "none").mkdir()
    message = error_of(tmp_path, rows, f"data.root={tmp_path / 'none'}")
    assert message.endswith("data.root=DIR/none: set data.root=DIR, the folder to which its paths are relative")


def test_encoding_and_paths__are_said_by_training(tmp_path: Path) -> None:
    rows = [row.replace(",cat,", ",Käfer,").replace("test/ant/00.jpg", "test/ant/00") for row in rows_of(tmp_path)]
    given = settings(tmp_path, rows)
    (tmp_path / "labels.csv").write_bytes((tmp_path / "labels.csv").read_text().encode("cp1252"))
    said, called, *_ = prepare_data(given, seed=0).manifest.notes
    assert said.startswith(f"{tmp_path / 'labels.csv'} is read as cp1252, by which a name in it is 'Käfer'")
    assert called.endswith("1 path is that of a file called otherwise ('test/ant/00': test/ant/00.jpg)")


@pytest.mark.slow
def test_incomplete_rows(tmp_path: Path) -> None:
    rows = [*rows_of(tmp_path), "unknown.jpg,,test", ",ant,test"]
    assert find_problems(inspect(tmp_path, rows)) == [
        Finding("incomplete row", ("unknown.jpg",), "line 62 has no label"),
        Finding("incomplete row", (), "line 63 has no path"),
    ]
    assert error_of(tmp_path, rows) == (
        "DIR/labels.csv has an incomplete row for unknown.jpg: line 62 has no label (and 1 more: see task=audit): "
        "complete or delete it, or skip it with data.on_unreadable=skip"
    )
    data = prepare_data(settings(tmp_path, rows, "data.on_unreadable=skip"), seed=0)
    assert data.manifest.skipped == ("unknown.jpg",)
    assert sum(data.manifest.counts.values()) == 60


def test_duplicate_rows__are_used_once(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    data = prepare_data(settings(tmp_path, [*rows, rows[0]]), seed=0)
    path = rows[0].partition(",")[0]
    assert find_problems(data) == [Finding("duplicate rows", (path,), "lines 2 and 62; it is used once")]
    assert sum(data.manifest.counts.values()) == 60


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ("test/ant/00.jpg,bee,test", "conflicting labels", "label ant (line 2) and bee (line 62)"),
        ("test/ant/00.jpg,ant,train", "conflicting rows", "split test (line 2) and train (line 62)"),
    ],
)
def test_conflicts__are_errors_that_cannot_be_skipped(tmp_path: Path, row: str, kind: str, says: str) -> None:
    rows = [*rows_of(tmp_path), row]
    assert find_problems(inspect(tmp_path, rows)) == [Finding(kind, ("test/ant/00.jpg",), says)]
    assert error_of(tmp_path, rows, "data.on_unreadable=skip") == (
        f"DIR/labels.csv has {kind} for test/ant/00.jpg: {says}: keep the row that is right; "
        "several labels per image are not supported"
    )


def test_error__classes_differ_between_splits(tmp_path: Path) -> None:
    rows = [row for row in rows_of(tmp_path) if not row.startswith("test/bee")]
    assert error_of(tmp_path, rows) == (
        "the test split in DIR/labels.csv lacks the classes bee, which the train split in DIR/labels.csv has"
    )


def test_error__one_class(tmp_path: Path) -> None:
    assert error_of(tmp_path, [row for row in rows_of(tmp_path) if ",ant," in row]) == (
        "the train split in DIR/labels.csv has only one class (ant): a classifier needs at least two"
    )


def test_error__class_without_usable_images(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    for path in (tmp_path / "valid" / "cat").iterdir():
        path.unlink()
    assert error_of(tmp_path, rows, "data.on_unreadable=skip") == (
        "the valid split in DIR/labels.csv names no usable image of class 'cat'"
    )


def test_groups__across_given_splits_and_images_without_one(tmp_path: Path) -> None:
    rows = [f"{row}," for row in rows_of(tmp_path)]
    for place, group in ((0, "p1"), (1, "p1"), (20, "p1"), (40, "p2")):
        rows[place] += group
    found = find_problems(inspect(tmp_path, rows, header="path,label,split,group"))
    assert found[0] == Finding(
        "groups across splits", ("train/ant/08.jpg", "test/ant/00.jpg"), "'p1' is in train and test"
    )
    assert [finding.kind for finding in found[1:]] == ["image without a group"] * 56


def test_groups__by_a_regular_expression(tmp_path: Path) -> None:
    clean(tmp_path)
    data = inspect_data(settings_of("data=folder", f"data.root={tmp_path}", r"data.group=ant/(\d+)").data, seed=0)
    found = find_problems(data)
    across = [finding for finding in found if finding.kind == "groups across splits"]
    assert across[0].paths == ("train/ant/00.jpg", "valid/ant/00.jpg", "test/ant/00.jpg")
    assert len(across) == 4
    assert sum(finding.kind == "image without a group" for finding in found) == 40


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nan", "NaN", "NA", "N/A", "<NA>", "#N/A", "null", "None", "-", "?", "unknown"])
def test_missing_value__a_class_of_such_a_name_is_named_with_the_setting(tmp_path: Path, name: str) -> None:
    rows = [row.replace(",cat,", f",{name},") for row in rows_of(tmp_path)]
    (found,) = find_problems(inspect(tmp_path, rows))
    setting = f"data.missing=[{name}]" if name.replace("-", "").isalpha() or name == "-" else f"data.missing=['{name}']"
    says = f"'{name}' has 20 images: {setting} data.on_unreadable=skip leaves them out"
    assert found == Finding(MISSING_VALUE, (), says)
    data = prepare_data(settings(tmp_path, rows, setting, "data.on_unreadable=skip"), seed=0)
    assert (data.manifest.classes, len(data.manifest.skipped)) == (("ant", "bee"), 20)
    assert MISSING_VALUE not in {finding.kind for finding in find_problems(data)}


@pytest.mark.slow
def test_missing_value__training_warns(tmp_path: Path, messages: list[str]) -> None:
    rows = [row.replace(",cat,", ",nan,") for row in rows_of(tmp_path)]
    own = settings_of("data=csv", f"data.csv={tmp_path / 'labels.csv'}", f"data.root={tmp_path}", "report=none")
    own = replace(own, run_dir=str(tmp_path / "run"))
    AuditReport(own, prepare_data(settings(tmp_path, rows), seed=0), compares=False).begin()
    setting = "data.missing=[nan] data.on_unreadable=skip"
    assert f"possible missing value: 'nan' has 20 images: {setting} leaves them out" in messages


@pytest.mark.slow
def test_missing_value__a_group_of_such_a_name(tmp_path: Path) -> None:
    rows = [f"{row},{'nan' if number < 12 else f'p{number}'}" for number, row in enumerate(rows_of(tmp_path))]
    found = find_problems(inspect(tmp_path, rows, header="path,label,split,group"))
    says = "'nan' is one group: data.missing=[nan] makes each of its images a group of its own"
    assert Finding(MISSING_VALUE, (), says) in found
    left = find_problems(inspect(tmp_path, rows, "data.missing=[nan]", header="path,label,split,group"))
    assert {finding.kind for finding in left} == {"image without a group"}


def test_similar_names__of_classes_and_of_groups_across_splits(tmp_path: Path) -> None:
    rows = [f"{row},p{number}" for number, row in enumerate(rows_of(tmp_path))]
    rows[0] = "test/ant/00.jpg,аnt,test,P13"
    rows[1] = "test/ant/01.jpg,ant\u200b,test,p1"
    found = find_problems(inspect(tmp_path, rows, header="path,label,split,group"))
    says = "'ant', 'ant\\u200b' (with U+200B ZERO WIDTH SPACE) and 'аnt' (with U+0430 CYRILLIC SMALL LETTER A)"
    assert Finding("similar class names", (), says) in found
    across = [finding for finding in found if finding.kind == SIMILAR_GROUPS]
    assert across == [Finding(SIMILAR_GROUPS, ("test/ant/00.jpg", "train/ant/01.jpg"), "'P13' and 'p13'")]


def near(root: Path, *overrides: str, pairs: int) -> list[Finding]:
    """Whether groups are missing if so many of the 24 images outside train look like one in train."""
    data = inspect_data(settings_of("data=folder", f"data.root={root}", *overrides).data, seed=0)
    splits = data.manifest.splits
    draw = np.random.default_rng(0)
    features = {name: draw.normal(size=(len(split), 40)) for name, split in splits.items()}
    features["test"][:pairs] = features["train"][:pairs] + 0.01
    return missing_groups(data.manifest, find_from_features(splits, features))


@pytest.mark.slow
def test_missing_groups__suggested_by_near_duplicates_across_splits(tmp_path: Path) -> None:
    clean(tmp_path)
    says = "4 of the 24 images outside train look almost like one in another split"
    assert near(tmp_path, pairs=4) == [Finding(MISSING_GROUPS, (), says)]
    assert near(tmp_path, pairs=1) == []
    assert near(tmp_path, r"data.group=\d+", pairs=4) == []


def test_split_csv__gives_the_same_data_whatever_classes_are_called(tmp_path: Path) -> None:
    clean(tmp_path)
    for split in ("train", "valid", "test"):
        for name, other in zip(CLASSES, (" ant", "a,b", "nan\n"), strict=True):
            (tmp_path / split / name).rename(tmp_path / split / other)
    by_folder = inspect_data(settings_of("data=folder", f"data.root={tmp_path}").data, seed=0)
    by_folder.manifest.write(tmp_path / "split.csv")
    given = ("data=csv", f"data.csv={tmp_path / 'split.csv'}", f"data.root={tmp_path}", "data.columns.label=class")
    by_table = prepare_data(settings_of(*given).data, seed=0)
    assert by_table.manifest.fingerprint == by_folder.manifest.fingerprint
    assert by_table.manifest.notes == ()
