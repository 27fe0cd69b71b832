"""Rows that are written are kept, whatever ends the program."""

import errno
import json
import os
from io import FileIO
from pathlib import Path
from typing import cast

import pytest

from headstart.data.table import read_table
from headstart.predict.sources import Prediction
from headstart.predict.write import RowFile, TableWriter, open_files

ONE = Prediction(Path("a.jpg"), ("ant", "bee"), (0.9, 0.1), familiarity=0.25)
BAD = Prediction(Path("b.jpg"), error="b.jpg cannot be read")
UNDRAWN = Prediction(Path("c.jpg"), ("ant", "bee"), (0.8, 0.2), "c.jpg cannot be annotated", -0.5, "unsure")


def test_files__hold_each_row_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with open_files(tmp_path, topk=2) as writer:
        writer.write(ONE)
        assert (tmp_path / "predictions.csv").read_text() == (
            "path,error,label_1,prob_1,label_2,prob_2,familiar,doubt\na.jpg,,ant,0.9,bee,0.1,0.25,\n"
        )
        writer.write(BAD)
        writer.write(UNDRAWN)
        lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines] == [None, "b.jpg cannot be read", "c.jpg cannot be annotated"]
    assert [len(line["predictions"]) for line in lines] == [2, 0, 2]
    assert (tmp_path / "predictions.csv").read_text().splitlines()[2:] == [
        "b.jpg,b.jpg cannot be read,,,,,,",
        "c.jpg,c.jpg cannot be annotated,ant,0.8,bee,0.2,-0.5,unsure",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.csv", "predictions.jsonl"]


def test_files__are_read_back_exactly(tmp_path: Path) -> None:
    nasty = Prediction(Path("x /\udce4,.jpg "), (" ant", 'a,"b"\n'), (0.9, 0.1))
    with open_files(tmp_path, topk=2) as writer:
        writer.write(nasty)
    # As data=csv data.columns.label=label_1, where the file exists.
    table = read_table(tmp_path / "predictions.csv", ("path", "label_1"), exists=lambda name: name == str(nasty.path))
    columns = [table.column(name) for name in ("path", "label_1", "label_2")]
    assert columns == [(str(nasty.path),), (" ant",), ('a,"b"\n',)]


def test_files__an_error_keeps_the_rows_before(tmp_path: Path) -> None:
    def stop() -> None:
        with open_files(tmp_path, topk=2) as writer:
            writer.write(ONE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 2
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 1


def test_files__earlier_ones_stay_until_there_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("earlier\n")
    with open_files(tmp_path, topk=2):
        pass
    assert (tmp_path / "predictions.csv").read_text() == "earlier\n"
    assert not (tmp_path / "predictions.jsonl").exists()
    with open_files(tmp_path, topk=2) as writer:
        writer.write(ONE)
    assert "earlier" not in (tmp_path / "predictions.csv").read_text()


def test_files__a_full_disk_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowFile(tmp_path / "rows.csv", errors="strict")
    rows.write("first\n")
    file = cast(FileIO, rows._file)
    write = file.write

    def partly(content: bytes) -> int:
        if len(content) < 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(content[:3])

    class Full:
        """The file, on a disk with room for three bytes."""

        write = staticmethod(partly)
        truncate, close = file.truncate, file.close

    monkeypatch.setattr(rows, "_file", Full())
    with pytest.raises(OSError, match="No space") as caught:
        rows.write("second\n")
    assert caught.value.filename == str(tmp_path / "rows.csv")
    rows.close()
    assert (tmp_path / "rows.csv").read_text() == "first\n"


def test_names__that_are_not_unicode_or_have_line_breaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(os.fsdecode(b"caf\xe9\nx.jpg"))
    with open_files(tmp_path, topk=1) as writer:
        writer.write(Prediction(path, ("ant",), (0.5,)))
    assert b'"caf\xe9\nx.jpg",,ant,0.5,,\n' in (tmp_path / "predictions.csv").read_bytes()
    (line,) = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["path"] == str(path)
    TableWriter([path], ("ant",)).write(Prediction(path, ("a\x1bt",), (0.5,)))
    assert capsys.readouterr().out == "caf\\udce9\\nx.jpg  a\\x1bt  50.0%\n"


def test_table__shows_predictions_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    table = TableWriter([ONE.path, BAD.path], ("ant", "bee"))
    for prediction in (ONE, BAD, UNDRAWN):
        table.write(prediction)
    assert capsys.readouterr().out.splitlines() == [
        "a.jpg  ant  90.0%  bee  10.0%",
        "b.jpg  error: b.jpg cannot be read",
        "c.jpg  ant  80.0%  bee  20.0%  (unsure)  error: c.jpg cannot be annotated",
    ]
