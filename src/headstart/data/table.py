"""A CSV as people and programs write it, with any common delimiter, encoding and line end."""

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headstart.data.storage import read_file
from headstart.errors import HeadstartError

DELIMITERS = ",;\t|"
NAMES = {"\t": "a tab"}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class Table:
    """The header and the rows, as stripped texts. `lines` says on which line of the file each row ends."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def has(self, name: str) -> bool:
        """Whether there is a column `name`, in any case."""
        return self._places(name) != []

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of a column that the table has.

        Raises:
            HeadstartError: it has several.
        """
        place, *more = self._places(name)
        if more:
            raise HeadstartError(f"{self.path} has {1 + len(more)} columns '{name}': rename all but one")
        return tuple(row[place] for row in self.rows)

    def _places(self, name: str) -> list[int]:
        return [place for place, own in enumerate(self.header) if own.casefold() == name.casefold()]


def read_table(path: Path, wanted: tuple[str, ...]) -> Table:
    """The table at `path`. Its delimiter is the one by which its header has most of the columns `wanted`.

    Raises:
        HeadstartError: it cannot be read, or is no table.
    """
    text = _decode(path)
    headers = {delimiter: _header(text, delimiter) for delimiter in DELIMITERS}
    names = {name.casefold() for name in wanted}
    found = {delimiter: len(names & {name.casefold() for name in headers[delimiter]}) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda delimiter: (found[delimiter], len(headers[delimiter])))
    header = headers[delimiter]
    if not header:
        raise HeadstartError(f"{path} has no header: its first row must name the columns, such as {','.join(wanted)}")
    lines, rows = zip(*_rows(path, text, delimiter, len(header)), strict=True)
    return Table(path, header, rows[1:], lines[1:])


def _decode(path: Path) -> str:
    try:
        content = read_file(path)
    except OSError as error:
        raise HeadstartError(f"{path} cannot be read: {error.strerror}") from None
    for encoding in _encodings(content):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise HeadstartError(f"{path} is no text file: export the table as CSV")


def _encodings(content: bytes) -> Iterator[str]:
    """Those that it may have, the most certain first."""
    yield from (encoding for mark, encoding in BYTE_ORDER_MARKS.items() if content.startswith(mark))
    if b"\0" in content:
        # In UTF-16, most characters have a byte 0, first or second.
        yield "utf-16-le" if content[1::2].count(0) > content[::2].count(0) else "utf-16-be"
        return
    yield from ("utf-8", "cp1252", "latin-1")


def _header(text: str, delimiter: str) -> tuple[str, ...]:
    """The first row that is not empty; () if there is none."""
    try:
        return next((cells for _, cells in _parsed(text, delimiter)), ())
    except csv.Error:
        return ()


def _rows(path: Path, text: str, delimiter: str, width: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The line on which each row ends, and its `width` cells; missing ones at the end are empty."""
    try:
        for line, cells in _parsed(text, delimiter):
            if any(cells[width:]):
                raise HeadstartError(
                    f"{path}, line {line}, has {len(cells)} cells, but the header has {width}: put quotes around a "
                    f"cell that contains {NAMES.get(delimiter, delimiter)}"
                )
            yield line, (*cells[:width], *[""] * (width - len(cells)))
    except csv.Error as error:
        raise HeadstartError(f"{path} cannot be read as a CSV: {error}") from None


def _parsed(text: str, delimiter: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, tuple(cell.strip() for cell in cells)
