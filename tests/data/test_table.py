from pathlib import Path

import pytest

from headstart.data.table import Table, read_table
from headstart.errors import HeadstartError

WANTED = ("path", "label")
ROWS = (("a.jpg", "Käfer"), ("b, c.jpg", "Ameise"))


def read(folder: Path, content: bytes) -> Table:
    (folder / "labels.csv").write_bytes(content)
    return read_table(folder / "labels.csv", WANTED)


def error_of(folder: Path, content: bytes) -> str:
    with pytest.raises(HeadstartError) as caught:
        read(folder, content)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "DIR")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_delimiter_and_line_end(tmp_path: Path, delimiter: str, line_end: str) -> None:
    lines = (f"path{delimiter}label", f"a.jpg{delimiter}Käfer", f'"b, c.jpg"{delimiter}Ameise')
    table = read(tmp_path, line_end.join(lines).encode())
    assert (table.header, table.rows, table.lines) == (WANTED, ROWS, (2, 3))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"])
def test_encoding(tmp_path: Path, encoding: str) -> None:
    text = 'path;label\na.jpg;Käfer\n"b, c.jpg";Ameise\n'
    assert read(tmp_path, text.encode(encoding)).rows == ROWS


def test_encoding__latin_1_where_windows_has_no_character(tmp_path: Path) -> None:
    assert read(tmp_path, b"path,label\na.jpg,\xe4\x81\n").rows == (("a.jpg", "ä\x81"),)


def test_delimiter__is_the_one_by_which_the_header_has_the_columns(tmp_path: Path) -> None:
    table = read(tmp_path, b"path;label;a,b,c,d\n1.jpg;ant;x,y\n")
    assert table.header == ("path", "label", "a,b,c,d")


def test_column__in_any_case_and_stripped(tmp_path: Path) -> None:
    table = read(tmp_path, b" Path , LABEL\n a.jpg , 01 \n\n b.jpg,1\n")
    assert table.column("path") == ("a.jpg", "b.jpg")
    assert table.column("label") == ("01", "1")
    assert table.lines == (2, 4)
    assert not table.has("split")


def test_rows__missing_cells_at_the_end_are_empty_and_empty_ones_beyond_it_ignored(tmp_path: Path) -> None:
    assert read(tmp_path, b"path,label,split\na.jpg\nb.jpg,ant,train,,\n").rows == (
        ("a.jpg", "", ""),
        ("b.jpg", "ant", "train"),
    )


def test_error__too_many_cells(tmp_path: Path) -> None:
    assert error_of(tmp_path, b"path,label\na.jpg,ant\nb, c.jpg,ant\n") == (
        "DIR/labels.csv, line 3, has 3 cells, but the header has 2: put quotes around a cell that contains ,"
    )
    assert error_of(tmp_path, b"path\tlabel\nb\tc.jpg\tant\n").endswith("around a cell that contains a tab")


def test_error__quotes_that_do_not_end(tmp_path: Path) -> None:
    assert error_of(tmp_path, b'path,label\n"a.jpg,ant\nb.jpg,ant\n').startswith(
        "DIR/labels.csv cannot be read as a CSV"
    )


def test_error__no_header(tmp_path: Path) -> None:
    message = "DIR/labels.csv has no header: its first row must name the columns, such as path,label"
    assert error_of(tmp_path, b"") == message
    assert error_of(tmp_path, b"\n \n") == message


def test_error__no_text(tmp_path: Path) -> None:
    assert error_of(tmp_path, b"PK\x03\x04\x00\x00\x00\x00\x08\x01") == (
        "DIR/labels.csv is no text file: export the table as CSV"
    )


def test_error__two_columns_of_one_name(tmp_path: Path) -> None:
    table = read(tmp_path, b"path,label,Label\na.jpg,ant,bee\n")
    with pytest.raises(HeadstartError, match=r"labels\.csv has 2 columns 'label': rename all but one"):
        table.column("label")
