import csv
import os
import random
from pathlib import Path

import pytest

from headstart.config.data import ColumnSettings
from headstart.data.labels import Labels, Problem, read_labels
from headstart.data.manifest import Manifest, Split
from headstart.errors import HeadstartError
from headstart.files import write_csv


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


# What a CSV may change, and what a reader may take for something else.
NASTY = (
    *(" ant", "ant ", "\tant", "a,b", "a;b", "a", "b", "a|b", 'a"b', '"ant"', '"', "a\nb", "a\r\nb", "\ra", "\n"),
    *("nan", "NA", "null", "1", "01", "1.0", "=1+1", "-", "@x", "#", "ä", "a\u0308", "\u200bant", "\xa0ant"),
    *(
        "\ufeffant",
        "\x0cant",
        "\x1cant",
        "\x85",
        "\u2028",
        "a\\b",
        "C:\\b",
        "train",
        "path",
        "'",
        " ",
        "\\",
        "蚂蚁",
        "x\udce4",
    ),
)


def written_and_read(root: Path, classes: list[str], groups: dict[str, str]) -> Labels:
    """Images named like their class, or by number where a file cannot be called so, in a run's split.csv."""
    splits = {}
    for split in ("train", "valid"):
        paths = tuple(f"{split}{number}/{name}" for number, name in enumerate(classes))
        for path in paths:
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).touch()
        splits[split] = Split(root, paths, tuple(range(len(paths))), ("",) * len(paths))
    manifest = Manifest(root, tuple(classes), splits, {}, (), (), {}, (), groups)
    manifest.write(root / "split.csv")
    return read_labels(root / "split.csv", root, ColumnSettings(label="class"), "auto")


def test_split_csv__is_read_back_exactly(tmp_path: Path) -> None:
    groups = {f"train{number}/{name}": name for number, name in enumerate(NASTY)}
    labels = written_and_read(tmp_path, list(NASTY), groups)
    for split in ("train", "valid"):
        expected = {name: [f"{split}{number}/{name}"] for number, name in enumerate(NASTY)}
        assert labels.images[split] == expected
    assert labels.groups == groups
    assert (labels.problems, labels.notes) == ((), ())


def test_split_csv__of_random_names_is_read_back_exactly(tmp_path: Path) -> None:
    draw = random.Random(0)
    alphabet = " \t\n\r,;|\"'\\=.0aä\xa0\u200b\ufeff\udce4蚁"
    names = {"".join(draw.choices(alphabet, k=draw.randint(1, 5))) for _ in range(400)} - {".", ".."}
    labels = written_and_read(tmp_path, sorted(names), {})
    assert labels.images["train"] == {name: [f"train{place}/{name}"] for place, name in enumerate(sorted(names))}
    assert labels.problems == ()


def test_write_csv__is_read_by_other_readers(tmp_path: Path) -> None:
    rows = [[name, name[::-1], ""] for name in NASTY]
    write_csv(tmp_path / "a.csv", ("x", "y", "z"), rows)
    with (tmp_path / "a.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [["x", "y", "z"], *rows]


def test_labels__in_one_cell_are_one_class_if_the_folder_is_called_so(tmp_path: Path) -> None:
    lines = ("path,label", "cat/1,cat", "dog/1,dog", '"cat,dog/1","cat,dog"')
    assert list(read(tmp_path, *lines).images[""]) == ["cat", "cat,dog", "dog"]


@pytest.mark.parametrize("spelling", ["nan", "NaN", "N/A", "<NA>", "", " null "])
def test_missing__cells_of_these_spellings_are_empty_in_every_column(tmp_path: Path, spelling: str) -> None:
    lines = ["path,label,group", "a,ant,1", f"b,{spelling},1", f"{spelling},ant,1", f"c,ant,{spelling}"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    # As YAML reads null and nan.
    missing = ["N/A", "<na>", None, float("nan")]
    labels = read_labels(tmp_path / "labels.csv", tmp_path, ColumnSettings(), "auto", missing=missing)
    assert labels.images == {"": {"ant": ["a", "c"]}}
    assert labels.groups == {"a": "1"}
    assert [problem.says for problem in labels.problems] == ["line 3 has no label", "line 4 has no path"]


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("0001", "0001.jpg"),
        ("x/0001", "x/0001.png"),
        ("a.JPG", "a.jpg"),
        ("X/a.jpg", "x/a.jpg"),
        ("a\u0308/u\u0308.jpg", "ä/ü.jpg"),
        ("ä.jpg", "a\u0308.jpg"),
        (r"X\a.jpg", "x/a.jpg"),
        ('" a.jpg "', "a.jpg"),
        ("patient.1", "patient.1.jpg"),
        ("tables/../a.jpg", "a.jpg"),
    ],
)
def test_paths__are_found_by_the_only_name_that_is_meant(tmp_path: Path, cell: str, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    labels = read(tmp_path, "path,label", f"{cell},ant")
    assert labels.images == {"": {"ant": [name]}}
    called = cell.strip('"')
    shown = () if called == "tables/../a.jpg" else (f"called otherwise ('{called}': {name})",)
    assert tuple(note.partition("file ")[2] for note in labels.notes) == shown


def test_paths__that_may_mean_several_files_stay_as_they_are(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "B.jpg", "b.jpg"):
        (tmp_path / name).touch()
    labels = read(tmp_path, "path,label", "a,ant", "b.JPG,ant", "b.jpg,ant")
    assert labels.images == {"": {"ant": ["a", "b.JPG", "b.jpg"]}}
    assert labels.notes == ()


def test_paths__relative_to_the_table(tmp_path: Path) -> None:
    for place in ("images/x", "meta"):
        (tmp_path / place).mkdir(parents=True)
    for name in ("x/a.jpg", "x/b.jpg"):
        (tmp_path / "images" / name).touch()
    table = tmp_path / "meta" / "labels.csv"
    table.write_text("path,label\n../images/x/a.jpg,ant\nx/b.jpg,bee\n")
    labels = read_labels(table, tmp_path / "images", ColumnSettings(), None)
    assert labels.images == {"": {"ant": ["x/a.jpg"], "bee": ["x/b.jpg"]}}
    note = f"{table}: 1 path is that of a file called otherwise ('../images/x/a.jpg': x/a.jpg)"
    assert labels.notes == (note,)


def test_paths__two_rows_of_one_file_are_duplicates(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    labels = read(tmp_path, "path,label", "a,ant", "a.jpg,ant", "A.JPG,ant")
    assert labels.problems == (Problem("duplicate rows", "a.jpg", "lines 2, 3 and 4; it is used once"),)
    assert len(labels.notes) == 1


def test_split__with_a_character_that_cannot_be_seen(tmp_path: Path) -> None:
    assert list(read(tmp_path, "path,label,split", "a,ant,\u200btrain", 'b,ant,"Valid "').images) == ["train", "valid"]
    assert "the split 'trаin' (with U+0430 CYRILLIC SMALL LETTER A): it must be train" in error_of(
        tmp_path, "path,label,split", "a,ant,trаin"
    )


def test_encoding__is_found_by_the_names_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "蚂").mkdir()
    (tmp_path / "蚂" / "1.JPG").touch()
    (tmp_path / "labels.csv").write_bytes("path,label\n蚂\\1.jpg,蚂\n".encode("gbk"))
    labels = read_labels(tmp_path / "labels.csv", tmp_path, ColumnSettings(), None)
    assert labels.images == {"": {"蚂": ["蚂/1.JPG"]}}
    assert labels.notes[0].endswith("is read as gb18030, by which a name in it is '蚂\\1.jpg'")


def test_labels__of_a_file_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe4.jpg")
    (tmp_path / name).touch()
    (tmp_path / "labels.csv").write_bytes(b"path,label\n" + b"\xe4.jpg,ant\n")
    assert read_labels(tmp_path / "labels.csv", tmp_path, ColumnSettings(), None).images == {"": {"ant": [name]}}
