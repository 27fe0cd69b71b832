"""A CSV as people and programs write it, with any common delimiter, encoding and line end."""

import codecs
import csv
import functools
import io
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import log
from pathlib import Path

from headstart.config.data import AUTO
from headstart.data.folders import read_file
from headstart.errors import HeadstartError
from headstart.text import visible

DELIMITERS = ",;\t|"
NAMES = {"\t": "a tab"}
# Those of UTF-32 begin like those of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UTF_8 = ("utf-8", "utf-8-sig")
LONGEST_HEADER = 1 << 18  # characters
# Stands at the ends of a cell in quotes while the table is parsed; no table holds one itself.
QUOTED = "\0"


@dataclass(frozen=True)
class Table:
    """The header and the rows, as texts; those in quotes are exact, others are stripped.

    `lines` says on which line of the file each row ends, `note` how it was decoded unless that is certain.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    note: str = ""

    def has(self, name: str) -> bool:
        """Whether there is a column `name`, in any case, and whatever cannot be seen in its header."""
        return self._places(name) != []

    def column(self, name: str) -> tuple[str, ...]:
        """Returns the cells of a column that the table has.

        Raises:
            HeadstartError: it has several.
        """
        place, *more = self._places(name)
        if more:
            raise HeadstartError(f"{self.path} has {1 + len(more)} columns '{name}': rename all but one")
        return tuple(row[place] for row in self.rows)

    def _places(self, name: str) -> list[int]:
        exact = [place for place, own in enumerate(self.header) if own.casefold() == name.casefold()]
        return exact or [place for place, own in enumerate(self.header) if visible(own) == visible(name)]


def read_table(
    path: Path, wanted: tuple[str, ...], encoding: str = AUTO, exists: Callable[[str], bool] | None = None
) -> Table:
    """Reads the table at `path`. Its delimiter is the one by which its header has most of the columns `wanted`.

    `encoding` is data.encoding. Where it is not known, it is the one by which most of the files in the first of the
    columns `wanted` exist, which `exists` says of a name, or else by which the names are most plausible.

    Raises:
        HeadstartError: it cannot be read, or is no table.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise HeadstartError(f"{path} cannot be read: {error.strerror}") from None
    if encoding != AUTO:
        return _parse(path, _decode(path, content, encoding), wanted, _note(path, content, encoding))
    text = _unicode(path, content)
    # Few names, such as 猫 in GBK, may be UTF-8 by chance.
    is_certain = exists is None or b"\0" in content or _odd_lines(content).count(b"\n") >= MOST_NAMES
    if text is not None and is_certain:
        return _parse(path, text, wanted)
    return _guessed(path, content, wanted, exists, [] if text is None else ["utf-8-sig"])


def _parse(path: Path, text: str, wanted: tuple[str, ...], note: str = "") -> Table:
    headers = {delimiter: _header(text, delimiter) for delimiter in DELIMITERS}
    names = {name.casefold() for name in wanted}
    known = {delimiter: len(names & {name.casefold() for name in headers[delimiter]}) for delimiter in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda delimiter: (known[delimiter], len(headers[delimiter])))
    header = headers[delimiter]
    if not header:
        raise HeadstartError(f"{path} has no header: its first row must name the columns, such as {','.join(wanted)}")
    lines, rows = zip(*_rows(path, text, delimiter, len(header)), strict=True)
    return Table(path, header, rows[1:], lines[1:], note)


def _decode(path: Path, content: bytes, encoding: str) -> str:
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        line = content.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise HeadstartError(
            f"{path} is not encoded in data.encoding={encoding}, as its line {line} shows: set another one, or auto"
        ) from None
    if QUOTED in text:
        raise HeadstartError(f"{path} is no text file in data.encoding={encoding}: set another one, or auto")
    return text.removeprefix("\ufeff")


def _unicode(path: Path, content: bytes) -> str | None:
    """The content, if it is certainly UTF-8, or UTF-16 or UTF-32; None: it may be text in another encoding.

    Raises:
        HeadstartError: it is no text.
    """
    encoding = next((of for mark, of in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    if b"\0" in content and encoding in UTF_8:
        # In UTF-16, most characters have a byte 0, first or second.
        encoding = "utf-16-le" if content[1::2].count(0) > content[::2].count(0) else "utf-16-be"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        if encoding in UTF_8:
            return None
        text = QUOTED
    if QUOTED in text:
        raise HeadstartError(f"{path} is no text file: export the table as CSV")
    return text


def _guessed(
    path: Path, content: bytes, wanted: tuple[str, ...], exists: Callable[[str], bool] | None, first: list[str]
) -> Table:
    """The table in the encoding by which most of its files exist, or else the `first` or the most plausible one."""
    readable = first + [encoding for encoding in plausible_encodings(_odd_names(content)) if _is_in(content, encoding)]
    counts = dict.fromkeys(readable, 0)
    raw = content.decode("utf-8", "surrogateescape")
    if exists is not None:
        sample = _odd_lines(content)
        counts = {encoding: _count(path, sample.decode(encoding), wanted, exists) for encoding in readable}
        # headstart's own tables, with names of files that are not UTF-8, which may have any character.
        if _count(path, raw, wanted, exists) > max(counts.values(), default=0):
            return _parse(path, raw, wanted)
    _check_no_mixture(path, raw)
    if not readable:
        raise HeadstartError(f"{path} is in none of the usual encodings: set data.encoding, or export it as UTF-8")
    # Of those by which equally many exist, sorting keeps the order.
    encoding, *others = sorted(readable, key=lambda encoding: -counts[encoding])
    other = others[0] if others and counts[others[0]] == counts[encoding] else None
    return _parse(path, content.decode(encoding), wanted, _note(path, content, encoding, other))


def _is_in(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _odd_names(content: bytes) -> bytes:
    """The distinct cells that are not ASCII, one per line. `|` separates none: it is part of some characters."""
    cells = {cell.strip() for cell in re.split(rb'[,;\t\r\n"]', content) if not cell.isascii()}
    return b"\n".join(sorted(cells)[:MOST_NAMES])


def _odd_lines(content: bytes) -> bytes:
    """The header, and the first lines that are not ASCII."""
    header, *lines = content.splitlines()
    return b"\n".join([header, *[line for line in lines if not line.isascii()][:MOST_NAMES]])


def _count(path: Path, text: str, wanted: tuple[str, ...], exists: Callable[[str], bool]) -> int:
    """How many of the files exist whose names are not ASCII."""
    try:
        table = _parse(path, text, wanted)
    except HeadstartError:
        return 0
    return sum(exists(name) for name in (table.column(wanted[0]) if table.has(wanted[0]) else ()) if not name.isascii())


def _check_no_mixture(path: Path, text: str) -> None:
    """Raises HeadstartError if most of what is not ASCII in `text` is UTF-8; the rest has become surrogates."""
    broken = re.findall(r"[\udc80-\udcff]+", text)
    size = sum(map(len, broken))
    if broken and sum(not character.isascii() for character in text) - size > size:
        line = text.count("\n", 0, text.index(broken[0])) + 1
        raise HeadstartError(f"{path} is encoded in UTF-8, but not on line {line}: correct that line")


def _note(path: Path, content: bytes, encoding: str, other: str | None = None) -> str:
    """How the table is decoded, with an example; "" if there is nothing to say. `other` is the next best encoding."""
    names = _odd_names(content).split(b"\n")
    if codecs.lookup(encoding).name in UTF_8 or not names[0] or b"\0" in content:
        return ""
    # The longest has most of what can be wrong.
    name = max(names, key=len)
    shown = f"{path} is read as {encoding}, by which a name in it is '{name.decode(encoding, 'replace').strip()}'"
    if other is None:
        return shown
    return f"{shown}; if that is wrong, set data.encoding ({other} reads '{name.decode(other, 'replace').strip()}')"


def _header(text: str, delimiter: str) -> tuple[str, ...]:
    """The first row that is not empty; () if there is none."""
    try:
        cells = next((cells for _, cells in _parsed(text[:LONGEST_HEADER], delimiter)), ())
        return tuple(cell.strip() for cell in cells)
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
    if '"' in text:
        text = _with_quoted_ends(text, delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for cells in reader:
        stripped = tuple(cell.strip().replace(QUOTED, "") for cell in cells)
        if any(cell.strip() for cell in stripped):
            yield reader.line_num, stripped


def _with_quoted_ends(text: str, delimiter: str) -> str:
    """The text with QUOTED at both ends of each cell in quotes, whose spaces are its own, and none outside them."""
    ends = rf"[\r\n{re.escape(delimiter)}]"
    return re.sub(rf'(\A|{ends}) *"([^"]*(?:""[^"]*)*)" *(?=\Z|{ends})', rf'\1"{QUOTED}\2{QUOTED}"', text)


# The encoding of a table that is not UTF-8, by how plausible its names are in each one that is common. Tables of a
# few dozen names are too short for the libraries that recognize encodings by their bytes' frequencies: charset-
# normalizer 3.5 takes "Käfer" and "Größe" in Windows-1252 for HP Roman-8, four names in GBK for Windows-1250.

# How many names decide about an encoding.
MOST_NAMES = 200
# The common ones, each with how much less often it is met than the first ones.
PRIOR = {
    **dict.fromkeys(("cp1252", "cp1251", "gb18030", "cp932", "big5", "cp949"), 0.0),
    **dict.fromkeys(("cp1250", "cp1254", "cp1253", "cp1255", "koi8-r"), 0.5),
    **dict.fromkeys(("cp1256", "cp874", "euc_jp", "mac_roman", "cp850", "cp852", "cp866"), 2.0),
}
# The first bytes of the characters that are used most, in encodings with two bytes per character.
FREQUENT = {
    "gb18030": range(0xB0, 0xD8),
    "big5": range(0xA4, 0xC7),
    "cp932": range(0x82, 0x98),
    "euc_jp": range(0xA4, 0xD0),
    "cp949": range(0xB0, 0xC9),
}
# Costs are negative logarithms of probabilities: a letter is one of the alphabet's, an ideograph one of some thousands.
IDEOGRAPH = {"gb18030": 8.2, "big5": 8.6, "cp932": 8.0, "euc_jp": 8.0, "cp949": 10.0}
KANA, CYRILLIC, SYLLABLE = log(80), log(33), log(300)
ALPHABET = {"cp1255": log(22), "cp1256": log(28), "cp1253": log(30)}
# Of what is unusual, and of what no word has.
UNUSUAL, WRONG = 3.0, 5.0
WESTERN = frozenset("äöüßéèêëàâáíîïóôúûñçåøæœãõìòùÄÖÜÉÅØÇ")
CENTRAL = frozenset("ąćęłńóśźżčďěňřšťůúýžáéíőűöüäăâîţşđĽľŽŠČŁŚ")
TURKISH = frozenset("ıışğİŞçöüÇÖÜâ")
USUAL = {"cp1250": CENTRAL, "cp852": CENTRAL, "cp1254": TURKISH}
SYLLABLES = frozenset(
    "가각간갈감강개거건게겨결경계고공과관교구국군권그근기길김나난날남내너네년노농는니다단달당대더도독동두드든등디라락란래량러레려력로록료루"
    "류르른를리린림마만말매머면명모목무문물미민바박반발방배백버번벌법베벽별병보복본부북분불비빈사산살상새색생서석선설성세소속손솔송수숙순술"
    "스시식신실심아안알암애야약양어언업에여역연열영예오온올와왕외요용우운울원월위유육은을음의이인일임입자작잔장재저적전정제조족종주준중지직"
    "진집차참창채책처천철청체초촌최추축충치카코크키타탁태터토통트파판팔펴편평포표풍피필하학한합항해행향허혁현형호화환황회후흥희"
)
JAPANESE = ("cp932", "euc_jp")
MIXED = frozenset(("HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "CJK"))  # scripts within one word
# Letters that in Hebrew only end a word.
FINAL = frozenset("ךםןףץ")
MARK_ON_NOTHING = re.compile(r"(?<![^\W\d_])[\u0300-\u036f\u0590-\u05c7\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")


def plausible_encodings(names: bytes) -> list[str]:
    """Returns the encodings in which `names`, one per line, can be read, the most plausible first.

    Encodings that give the same text are listed once.
    """
    readable = [encoding for encoding in PRIOR if _is_in(names, encoding)]
    texts: dict[str, str] = {}
    for encoding in sorted(readable, key=lambda encoding: (_cost(names.decode(encoding), encoding), encoding)):
        texts.setdefault(names.decode(encoding), encoding)
    return list(texts.values())


def _cost(text: str, encoding: str) -> float:
    """Returns how implausible `text` is, if it was decoded by `encoding`."""
    letters = sum(_of_character(character, encoding) for character in text if not character.isascii())
    return PRIOR[encoding] + letters + WRONG * sum(_oddities(text))


def _of_character(character: str, encoding: str) -> float:
    kind = unicodedata.category(character)[0]
    if kind not in "LM":
        return CYRILLIC + 2 * WRONG
    if encoding in FREQUENT:
        if _script(character) in ("HIRAGANA", "KATAKANA") and encoding in JAPANESE:
            return KANA
        if character in SYLLABLES:
            return SYLLABLE
        return IDEOGRAPH[encoding] + UNUSUAL * (character.encode(encoding)[0] not in FREQUENT[encoding])
    if _script(character) == "LATIN":
        usual = USUAL.get(encoding, WESTERN)
        return log(len(usual)) + UNUSUAL * (character not in usual)
    return ALPHABET.get(encoding, CYRILLIC) + UNUSUAL * (kind == "M" and encoding != "cp874")


def _oddities(text: str) -> Iterator[float]:
    """What words do not have: capitals after small letters, two alphabets, marks on nothing, Greek without accents."""
    for word in re.findall(r"[^\W\d_]+", text):
        for before, after in pairwise(word):
            yield (1.0 if before.islower() else 0.3) if after.isupper() else 0.0
            yield float(not {_script(before), _script(after)} <= MIXED and _script(before) != _script(after))
            yield float(before in FINAL)
        yield float(len(word) > 2 and _script(word[0]) == "GREEK" and unicodedata.normalize("NFD", word) == word)
    yield float(len(MARK_ON_NOTHING.findall(text)))


@functools.cache
def _script(character: str) -> str:
    return re.split(r"[ -]", unicodedata.name(character, ""))[0]
