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


# Three names of classes, and the encodings in which such tables are found.
NAMES = {
    ("Käfer", "Größe", "Müll"): ("cp1252", "latin-1"),
    ("žlutý", "kůň", "kočka"): ("cp1250",),
    ("жук", "муравей", "пчела"): ("cp1251", "koi8-r", "cp866"),
    ("蚂蚁", "蜜蜂", "狗"): ("gbk", "gb18030"),
    ("螞蟻", "蜜蜂", "貓", "狗"): ("big5",),
    ("アリ", "ハチ", "てんとう虫"): ("shift_jis", "euc-jp"),
    ("개미", "꿀벌", "고양이"): ("euc-kr",),
    ("μυρμήγκι", "μέλισσα", "γάτα"): ("cp1253",),
    ("karınca", "arı", "köpek"): ("cp1254",),
    ("נמלה", "דבורה", "חתול"): ("cp1255",),
}


@pytest.mark.parametrize(
    ("names", "encoding"), [(names, encoding) for names, encodings in NAMES.items() for encoding in encodings]
)
def test_encoding__of_a_short_table_by_its_names(tmp_path: Path, names: tuple[str, ...], encoding: str) -> None:
    rows = tuple((f"{number}.jpg", ("ant", *names)[number % (len(names) + 1)]) for number in range(46))
    content = "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows)
    table = read(tmp_path, content.encode(encoding))
    assert table.rows == rows
    assert table.note.startswith(f"{tmp_path / 'labels.csv'} is read as ")
    assert any(f"is '{name}'" in table.note for name in names)


def test_encoding__is_that_by_which_the_files_exist(tmp_path: Path) -> None:
    # Both are usual words: "Käfer" in Windows-1252, "Kдfer" in Windows-1251.
    content = "path,label\nKдfer.jpg,ant\n".encode("cp1251")
    (tmp_path / "labels.csv").write_bytes(content)
    guessed = read_table(tmp_path / "labels.csv", WANTED)
    assert guessed.rows[0][0] == "Käfer.jpg"
    assert "is read as cp1252" in guessed.note
    assert "set data.encoding" in guessed.note
    found = read_table(tmp_path / "labels.csv", WANTED, exists=lambda name: name == "Kдfer.jpg")
    assert found.rows[0][0] == "Kдfer.jpg"
    assert "is read as cp1251, by which a name in it is 'Kдfer.jpg'" in found.note
    assert "set" not in found.note


def test_encoding__of_a_name_that_by_chance_is_also_utf_8(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("path,label\n猫.jpg,猫\n".encode("gbk"))
    assert read_table(tmp_path / "labels.csv", WANTED, exists=lambda name: name == "猫.jpg").rows == (("猫.jpg", "猫"),)
    assert read_table(tmp_path / "labels.csv", WANTED, exists=lambda name: name == "è.jpg").rows == (("è.jpg", "è"),)
    assert read_table(tmp_path / "labels.csv", WANTED, exists=lambda name: False).rows == (("è.jpg", "è"),)


def test_encoding__names_of_files_that_are_not_utf_8_keep_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"path,label\n" + b"\xe4.jpg,K\xc3\xa4fer\n")
    raw = b"\xe4.jpg".decode("utf-8", "surrogateescape")
    table = read_table(tmp_path / "labels.csv", WANTED, exists=lambda name: name == raw)
    assert (table.rows, table.note) == (((raw, "Käfer"),), "")


def test_encoding__as_it_is_set(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("path,label\na.jpg,жук\n".encode("koi8-r"))
    table = read_table(tmp_path / "labels.csv", WANTED, "cp1251")
    assert table.rows == (("a.jpg", "ЦХЛ"),)
    assert table.note.endswith("is read as cp1251, by which a name in it is 'ЦХЛ'")
    with pytest.raises(HeadstartError) as caught:
        read_table(tmp_path / "labels.csv", WANTED, "utf-8")
    assert str(caught.value) == (
        f"{tmp_path / 'labels.csv'} is not encoded in data.encoding=utf-8, as its line 2 shows: set another one, or "
        "auto"
    )


def test_encoding__utf_8_says_nothing_and_utf_32_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, "path,label\na.jpg,Käfer".encode()).note == ""
    assert read_table(tmp_path / "labels.csv", WANTED, "UTF8").note == ""
    assert read(tmp_path, "path,label\na.jpg,Käfer".encode("utf-32")).rows == (("a.jpg", "Käfer"),)


def test_error__utf_8_with_one_line_that_is_not(tmp_path: Path) -> None:
    content = "path,label\na.jpg,Käfer\nb.jpg,Größe\n".encode() + b"c.jpg,K\xe4fer\n"
    assert error_of(tmp_path, content) == "DIR/labels.csv is encoded in UTF-8, but not on line 4: correct that line"


def test_cells__in_quotes_keep_their_spaces_and_others_lose_them(tmp_path: Path) -> None:
    content = b'path,label\n a.jpg , ant \n"b.jpg", " ant "\n c.jpg,"a ""b"" \n"\nd.jpg,"ant" \n'
    assert read(tmp_path, content).rows == (
        ("a.jpg", "ant"),
        ("b.jpg", " ant "),
        ("c.jpg", 'a "b" \n'),
        ("d.jpg", "ant"),
    )


def test_column__whatever_cannot_be_seen_in_its_header(tmp_path: Path) -> None:
    table = read(tmp_path, "\u200bpath,Label\xa0\na.jpg,ant\n".encode())
    assert (table.column("path"), table.column("label")) == (("a.jpg",), ("ant",))


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
