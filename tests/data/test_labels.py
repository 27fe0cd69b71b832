from pathlib import Path

import pytest

from headstart.config.data import ColumnSettings
from headstart.data.labels import Labels, Problem, read_labels
from headstart.errors import HeadstartError


def read(folder: Path, *lines: str, group: str | None = "auto", **columns: str | None) -> Labels:
    (folder / "labels.csv").write_text("\n".join(lines))
    return read_labels(folder / "labels.csv", folder, ColumnSettings(**columns), group)  # type: ignore[arg-type]


def error_of(folder: Path, *lines: str, group: str | None = "auto", **columns: str | None) -> str:
    with pytest.raises(HeadstartError) as caught:
        read(folder, *lines, group=group, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "DIR")


def test_images__by_class_and_path(tmp_path: Path) -> None:
    labels = read(tmp_path, "path,label", "b.jpg,bee", "x/c.jpg,ant", "a.jpg,bee")
    assert labels.images == {"": {"ant": ["x/c.jpg"], "bee": ["a.jpg", "b.jpg"]}}
    assert (labels.groups, labels.problems) == (None, ())


def test_labels__are_texts(tmp_path: Path) -> None:
    assert list(read(tmp_path, "path,label", "a,1", "b,01", "c,1.0").images[""]) == ["01", "1", "1.0"]


def test_columns__have_settable_names(tmp_path: Path) -> None:
    lines = ("id,breed,fold,dog", "a.jpg,pug,val,rex", "b.jpg,pug,training,")
    labels = read(tmp_path, *lines, path="id", label="breed", split="fold", group="dog")
    assert labels.images == {"train": {"pug": ["b.jpg"]}, "valid": {"pug": ["a.jpg"]}}
    assert labels.groups == {"a.jpg": "rex"}


def test_split_and_group__are_found_by_their_usual_names(tmp_path: Path) -> None:
    lines = ("path,label,split,group", "a,ant,Train,1", "b,ant,VALIDATION,2", "c,ant,test,3")
    labels = read(tmp_path, *lines)
    assert list(labels.images) == ["train", "valid", "test"]
    assert labels.groups == {"a": "1", "b": "2", "c": "3"}
    none = read(tmp_path, *lines, split=None, group=None)
    assert (list(none.images), none.groups) == ([""], None)


def test_error__split_that_is_none(tmp_path: Path) -> None:
    tail = ": it must be train, valid or test; data.columns.split=null splits all images anew"
    assert error_of(tmp_path, "path,label,split", "a,ant,train", "b,ant,5") == (
        f"DIR/labels.csv, line 3, gives b the split '5'{tail}"
    )
    assert (
        error_of(tmp_path, "path,label,split", "a,ant,train", "b,ant,")
        == f"DIR/labels.csv, line 3, gives b no split{tail}"
    )
    assert "names" not in error_of(tmp_path, "path,label,split", "a,ant,holdout")
    assert error_of(tmp_path, "path,label,split", "a,ant,test").startswith(
        "DIR/labels.csv has no row of the train split"
    )


def test_paths__of_windows_and_absolute_ones(tmp_path: Path) -> None:
    lines = ("path,label", r"x\a.jpg,ant", f"{tmp_path}/x/b.jpg,ant", "./x//c.jpg,ant")
    assert read(tmp_path, *lines).images == {"": {"ant": ["x/a.jpg", "x/b.jpg", "x/c.jpg"]}}


def test_paths__with_a_backslash_in_the_name(tmp_path: Path) -> None:
    (tmp_path / r"x\a.jpg").touch()
    assert read(tmp_path, "path,label", r"x\a.jpg,ant").images == {"": {"ant": [r"x\a.jpg"]}}


@pytest.mark.parametrize("path", ["../a.jpg", "/elsewhere/a.jpg", r"C:\a.jpg"])
def test_error__path_outside_the_root(tmp_path: Path, path: str) -> None:
    found = error_of(tmp_path, "path,label", f"{path},ant")
    assert found.startswith("DIR/labels.csv, line 2: ")
    assert found.endswith("is not in data.root=DIR, to which paths are relative")


def test_problems__incomplete_rows(tmp_path: Path) -> None:
    labels = read(tmp_path, "path,label,x", "a,ant", "b,,1", ",bee,1", ",,1")
    assert labels.images == {"": {"ant": ["a"]}}
    assert labels.problems == (
        Problem("incomplete row", "b", "line 3 has no label"),
        Problem("incomplete row", "", "line 4 has no path"),
        Problem("incomplete row", "", "line 5 has no path and no label"),
    )


def test_problems__duplicate_rows_are_used_once(tmp_path: Path) -> None:
    labels = read(tmp_path, "path,label", "a,ant", "b,ant", "./a,ant")
    assert labels.images == {"": {"ant": ["a", "b"]}}
    assert labels.problems == (Problem("duplicate rows", "a", "lines 2 and 4; it is used once"),)


def test_problems__conflicting_rows_are_not_used(tmp_path: Path) -> None:
    lines = ("path,label,split,group", "a,ant,train,1", "a,bee,train,1", "b,ant,train,1", "b,ant,test,1")
    labels = read(tmp_path, *lines, "c,ant,train,1", "c,ant,train,", "d,ant,train,1")
    assert labels.images == {"train": {"ant": ["d"]}}
    assert labels.problems == (
        Problem("conflicting labels", "a", "label ant (line 2) and bee (line 3)"),
        Problem("conflicting rows", "b", "split train (line 4) and test (line 5)"),
        Problem("conflicting rows", "c", "group 1 (line 6) and no group (line 7)"),
    )


@pytest.mark.parametrize("cell", ["cat|dog", "dog ; cat", '"cat,dog"'])
def test_error__several_labels_in_a_cell(tmp_path: Path, cell: str) -> None:
    found = error_of(tmp_path, "path,label", "a,cat", "b,dog", f"c,{cell}")
    assert found == (
        f"DIR/labels.csv, line 4, gives c several labels ({cell.strip(chr(34))}): "
        "several labels per image are not supported; keep the main one"
    )


def test_labels__with_a_separator_in_their_name(tmp_path: Path) -> None:
    assert list(read(tmp_path, "path,label", 'a,"Salt, Lake"', "b,Salt").images[""]) == ["Salt", "Salt, Lake"]


def test_error__one_column_per_class(tmp_path: Path) -> None:
    assert error_of(tmp_path, "path,cat,dog,width", "a,1,0,30", "b,1,1,40") == (
        "DIR/labels.csv has no column 'label', but one column per class (cat and dog): write the name of the class "
        "into one column; several labels per image are not supported"
    )


def test_error__no_such_column(tmp_path: Path) -> None:
    assert error_of(tmp_path, "file,label", "a,ant") == (
        "DIR/labels.csv has no column 'path': set data.columns.path to the right one; it has the columns 'file' and "
        "'label'"
    )
    assert error_of(tmp_path, "path,label", "a,ant", group="patient") == (
        "DIR/labels.csv has no column 'patient' (data.group): it has the columns 'path' and 'label'"
    )
    assert "has no column 'set' (data.columns.split)" in error_of(tmp_path, "path,label", "a,ant", split="set")


def test_error__no_rows(tmp_path: Path) -> None:
    assert error_of(tmp_path, "path,label") == (
        "DIR/labels.csv names no image with a label: it needs one row per image"
    )


def test_error__no_such_file(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    with pytest.raises(HeadstartError) as caught:
        read_labels(Path("labels.csv"), tmp_path, ColumnSettings(), None)
    assert str(caught.value) == (
        f"data.csv=labels.csv does not exist (there is {tmp_path / 'labels.csv'}: set data.csv to it)"
    )
